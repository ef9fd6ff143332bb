"""Discriminator of the realism stage: heads on VGG-16's features and pixels.

Frozen features with small heads learn in thousands of steps (PULSE, StableCodec), where a network from nothing takes
hundreds of thousands.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from sdcodec.perceptual.trunks import VGG16

LEVELS = slice(1, 5)  # of the five activations: at 1/2, 1/4, 1/8 and 1/16 of the size
HEAD_WIDTH, LATENT_WIDTH = 64, 16
PIXEL_WIDTHS = (32, 64, 128)
FINE_SPAN = 5  # pixels of the mean that the pixel head's input is relative to
FINE_GAIN = 8.0  # brings fine detail to values of about 1: spectral norms keep a head from amplifying it
SLOPE = 0.2  # of the leaky ReLU
REAL_LABEL = 0.8  # one-sided label smoothing (Salimans et al., 2016)


class _Head(nn.Module):
    """Logits at each place of a feature map, told latents and quality."""

    def __init__(self, width: int, latent_channels: int) -> None:
        super().__init__()
        self.entry = spectral_norm(nn.Conv2d(width, HEAD_WIDTH, 3, padding=1))
        self.told = spectral_norm(nn.Conv2d(latent_channels + 1, LATENT_WIDTH, 1))
        self.exit = spectral_norm(nn.Conv2d(HEAD_WIDTH + LATENT_WIDTH, 1, 1))

    def forward(self, features: Tensor, told: Tensor) -> Tensor:
        """Return `[B, 1, h, w]`; `told` `[B, channels + 1, h', w']` is resized."""
        x = F.leaky_relu(self.entry(features), SLOPE)
        told = F.interpolate(self.told(told), size=x.shape[2:], mode="nearest")
        logits: Tensor = self.exit(torch.cat([x, told], 1))
        return logits


class _PixelHead(nn.Module):
    """Logits at 1/8 of the size, from the differences of pixels to their surroundings.

    From the pixels themselves the head found 50% of the places right after 400 steps, from these 64%.
    """

    def __init__(self) -> None:
        super().__init__()
        widths = (3, *PIXEL_WIDTHS)
        self.layers = nn.ModuleList(
            [spectral_norm(nn.Conv2d(entering, width, 4, stride=2, padding=1)) for entering, width in pairwise(widths)]
        )
        self.exit = spectral_norm(nn.Conv2d(widths[-1], 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return `[B, 1, H/8, W/8]`."""
        means = F.avg_pool2d(images, FINE_SPAN, stride=1, padding=FINE_SPAN // 2, count_include_pad=False)
        x = FINE_GAIN * (images - means)
        for layer in self.layers:
            x = F.leaky_relu(layer(x), SLOPE)
        logits: Tensor = self.exit(x)
        return logits


class Discriminator(nn.Module):
    """Tells decoded images from originals, at five levels."""

    def __init__(self, latent_channels: int) -> None:
        """Build the heads; the features come from outside."""
        super().__init__()
        widths = [layer.width for layer in VGG16 if layer.compared][LEVELS]
        self.heads = nn.ModuleList([_Head(width, latent_channels) for width in widths])
        self.pixels = _PixelHead()

    def forward(self, images: Tensor, activations: list[Tensor], told: Tensor) -> list[Tensor]:
        """Return logits of each level, `[B, 1, h, w]`; positive is real.

        images: `[B, 3, H, W]` in [0, 1].
        activations: the five of VGG-16, of unit length over channels (`LPIPS.activations`).
        told: latents and quality in 0..1, `[B, channels + 1, h, w]`, without gradient.
        """
        chosen = activations[LEVELS]
        scaled = [features * features.shape[1] ** 0.5 for features in chosen]  # values of about 1
        found = [head(features, told) for head, features in zip(self.heads, scaled, strict=True)]
        return [self.pixels(images), *found]


def discriminator_loss(real: list[Tensor], fake: list[Tensor]) -> Tensor:
    """Return the mean over levels of the binary cross-entropy."""
    losses = [
        F.binary_cross_entropy_with_logits(ours, torch.full_like(ours, REAL_LABEL))
        + F.binary_cross_entropy_with_logits(theirs, torch.zeros_like(theirs))
        for ours, theirs in zip(real, fake, strict=True)
    ]
    return torch.stack(losses).mean()


def adversarial_loss(fake: list[Tensor], weights: Tensor) -> Tensor:
    """Return the mean over levels of the non-saturating loss -log D.

    `weights` `[B]`: of the images.
    """
    losses = [(weights * F.softplus(-logits).mean((1, 2, 3))).mean() for logits in fake]
    return torch.stack(losses).mean()


def accuracies(real: list[Tensor], fake: list[Tensor]) -> dict[str, Tensor]:
    """Return the share of places that are told right, per level, of both kinds."""
    with torch.no_grad():
        return {
            f"accuracy_{level}": ((ours > 0).float().mean() + (theirs < 0).float().mean()) / 2
            for level, (ours, theirs) in enumerate(zip(real, fake, strict=True))
        }
