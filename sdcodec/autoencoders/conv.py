"""Networks of the embedded model's autoencoder, for all rates.

They have neither normalisation nor attention, so their receptive fields are finite.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FACTOR = 8  # pixels per latent, along a side
PIXELS = 3 * FACTOR**2  # samples of the 8x8 pixels of a latent
DIRECT_UNIT = 1 / 16  # unit of the linear path's output, in -1..1: its weights become as large as others
REDUCED_SCALES = (8, 4)  # divisors of the image's sides that the reduced heads have


@dataclass(frozen=True)
class ConvConfig:
    """Widths and numbers of residual blocks at 1/2, 1/4 and 1/8 of the image's size.

    The defaults are those of `base`. realism: 1 if there is a second, vivid decoder. reduced: 1 if the decoder
    has heads for images at 1/8 and 1/4 of the size. Raises ValueError for another number.
    """

    latent_channels: int = 64
    encoder_width_4: int = 64
    encoder_blocks_4: int = 1
    encoder_width_8: int = 128
    encoder_blocks_8: int = 6
    decoder_width_8: int = 160
    decoder_blocks_8: int = 10
    decoder_width_4: int = 64
    decoder_blocks_4: int = 3
    decoder_width_2: int = 24
    realism: int = 0
    reduced: int = 0

    def __post_init__(self) -> None:
        for name in ("realism", "reduced"):
            if getattr(self, name) not in (0, 1):
                raise ValueError(f"{name} is {getattr(self, name)}, not 0 or 1")

    def stored(self) -> dict[str, int]:
        """Return the values for a manifest, without parts that the decoder lacks."""
        values = asdict(self)
        return {name: value for name, value in values.items() if value or name not in ("realism", "reduced")}


def _cast(x: Tensor, layer: nn.Conv2d) -> Tensor:
    """Cast to the precision of a layer's weights.

    In training these are float32, and autocast chooses.
    """
    return x if layer.weight.dtype == torch.float32 else x.to(layer.weight.dtype)


class PreciseConv2d(nn.Conv2d):
    """Convolution in the precision of its weights, also under autocast.

    Latents and pixels need more digits than bfloat16 has; the first and last layers are thin.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.to(self.weight.dtype))


class ResidualBlock(nn.Module):
    """x + conv(SiLU(conv(SiLU(x)))), 3x3."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        with torch.no_grad():
            self.second.weight.mul_(0.2)

    def forward(self, x: Tensor) -> Tensor:
        """Add the residual."""
        hidden = self.first(_cast(F.silu(x), self.first))
        return x + self.second(F.silu(hidden))


def _blocks(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*[ResidualBlock(width) for _ in range(count)])


class ConvEncoder(nn.Module):
    """Images `[B, 3, H, W]` in [0, 1] → latents `[B, C, H/8, W/8]`."""

    def __init__(self, config: ConvConfig) -> None:
        super().__init__()
        narrow, wide = config.encoder_width_4, config.encoder_width_8
        self.entry = PreciseConv2d(48, narrow, 3, padding=1)
        self.blocks_4 = _blocks(narrow, config.encoder_blocks_4)
        self.down = nn.Conv2d(narrow, wide, 4, stride=2, padding=1)
        self.blocks_8 = _blocks(wide, config.encoder_blocks_8)
        self.exit = PreciseConv2d(wide, config.latent_channels, 3, padding=1)
        self.direct = PreciseConv2d(PIXELS, config.latent_channels, 1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Encode."""
        images = 2 * images - 1
        # Residual streams stay in float32: sums in bfloat16 cost half a hundredth of LPIPS.
        x = self.entry(F.pixel_unshuffle(images, 4)).float()
        x = self.down(_cast(F.silu(self.blocks_4(x)), self.down)).float()
        return self.exit(self.blocks_8(x)) + self.direct(F.pixel_unshuffle(images, FACTOR))


class ConvDecoder(nn.Module):
    """Latents `[B, C, h, w]` and a bias for the quality → images `[B, 3, 8h, 8w]`.

    The images are not clamped.
    """

    def __init__(self, config: ConvConfig) -> None:
        super().__init__()
        wide, middle, thin = config.decoder_width_8, config.decoder_width_4, config.decoder_width_2
        self.entry = PreciseConv2d(config.latent_channels, wide, 3, padding=1)
        self.blocks_8 = _blocks(wide, config.decoder_blocks_8)
        self.up_4 = nn.Conv2d(wide, 4 * middle, 1)
        self.blocks_4 = _blocks(middle, config.decoder_blocks_4)
        self.up_2 = nn.Conv2d(middle, 4 * thin, 3, padding=1)
        self.exit = PreciseConv2d(thin, 12, 3, padding=1)
        self.direct = PreciseConv2d(config.latent_channels, PIXELS, 1, bias=False)
        if config.reduced:
            self.head_8 = PreciseConv2d(wide, 3, 3, padding=1)
            self.head_4 = PreciseConv2d(wide, 12, 3, padding=1)
            for head in (self.head_8, self.head_4):  # reduced images begin as those of the linear path
                nn.init.zeros_(head.weight)
                nn.init.zeros_(head.bias)

    def forward(self, latents: Tensor, quality_bias: Tensor) -> Tensor:
        """Decode; `quality_bias` `[B, decoder_width_8]` tells the network the rate."""
        x = self._features(latents, quality_bias)
        x = F.pixel_shuffle(self.up_4(_cast(x, self.up_4)), 2).float()
        x = F.pixel_shuffle(self.up_2(_cast(F.silu(self.blocks_4(x)), self.up_2)), 2).float()
        images = F.pixel_shuffle(self.exit(F.silu(x)), 2)
        images = images + DIRECT_UNIT * F.pixel_shuffle(self.direct(latents), FACTOR)
        return images * 0.5 + 0.5

    def reduced(self, latents: Tensor, quality_bias: Tensor, scale: int) -> Tensor:
        """Decode to 1/`scale` of the size, 8 or 4, by a head on the features at 1/8.

        Returns images `[B, 3, h, w]` or `[B, 3, 2h, 2w]`, not clamped. The configuration must have `reduced`.
        """
        side = FACTOR // scale
        x = self._features(latents, quality_bias)
        images = (self.head_8 if scale == 8 else self.head_4)(x) + DIRECT_UNIT * self._direct_means(latents, side)
        return F.pixel_shuffle(images, side) * 0.5 + 0.5

    def _features(self, latents: Tensor, quality_bias: Tensor) -> Tensor:
        """Return the activations at 1/8 of the size, float32 `[B, decoder_width_8, h, w]`."""
        x = self.entry(latents).float() + quality_bias[:, :, None, None]
        return F.silu(self.blocks_8(x))

    def _direct_means(self, latents: Tensor, side: int) -> Tensor:
        """Return means of the linear path, before the shuffle.

        A latent has `side` x `side` of them.
        """
        span = FACTOR // side
        # The mean of linear outputs is the output of the mean weights.
        pixels = self.direct.weight.view(3, side, span, side, span, -1)
        weight = pixels.mean((2, 4)).flatten(0, 2)[:, :, None, None]
        with torch.autocast(latents.device.type, enabled=False):
            return F.conv2d(latents.to(weight.dtype), weight)


def between(faithful: ConvDecoder, vivid: ConvDecoder, realism: float) -> dict[str, Tensor]:
    """Return a vivid decoder's weights, by name, at a realism, 0..1.

    Linear between two trained decoders, as Wang et al. (ESRGAN, 2018) do between a faithful and an adversarial network.
    """
    weights = dict(faithful.named_parameters())  # and perhaps those of the reduced heads
    return {name: torch.lerp(weights[name], other, realism) for name, other in vivid.named_parameters()}


def receptive_margin(config: ConvConfig) -> int:
    """Return the reach of the networks' receptive fields, in latents."""
    encoder = (1 + 2 * config.encoder_blocks_4) / 2 + 1 + 2 * config.encoder_blocks_8 + 1
    decoder = 1 + 2 * config.decoder_blocks_8 + (2 * config.decoder_blocks_4 + 1) / 2 + 1 / 4
    return math.ceil(max(encoder, decoder))
