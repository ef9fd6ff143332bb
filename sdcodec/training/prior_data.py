"""Data for fitting a prior: cached latents of photographs, and crops of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sdcodec.autoencoders.protocol import Autoencoder
from sdcodec.errors import TrainingError
from sdcodec.training.data import find_images, load_pixels

CACHED_LATENTS = 64  # limit along a side of an image's cached latents
SMALLEST_LATENTS = 8
VALIDATION_SHARE = 8  # one image in 8 is kept for validation
VALIDATION_PICTURES = 12

Say = Callable[[str], None]


@dataclass(frozen=True)
class FitConfig:
    """Duration and widths of a fit.

    A run with `num_steps` is repeatable; one with `minutes` ends in time.
    """

    minutes: float = 10.0
    num_steps: int = 0  # if not 0, it replaces `minutes`
    pictures: int = 0  # limit; 0: all, or as many as a quarter of the time allows
    width: int = 64
    blocks: int = 1
    hyper_channels: int = 12
    batch: int = 4
    crop: int = 32  # latents along a side
    learning_rate: float = 3e-3
    seed: int = 1


@torch.no_grad()
def cached_latents(
    autoencoder: Autoencoder, folders: Sequence[Path], config: FitConfig, on: torch.device, until: float, say: Say
) -> tuple[list[Tensor], list[Tensor]]:
    """Return latents `[C, h, w]` of image centres for training and for validation.

    They are float32, with sides multiples of 4 latents, at most 64; half of the images are mirrored. Images come in
    random order; none is added after the time `until`.
    """
    split = find_images(list(folders))
    paths = [*split.training, *split.validation]
    np.random.default_rng(config.seed).shuffle(paths)
    found: list[Tensor] = []
    for path in paths[: config.pictures or None]:
        if len(found) >= 2 and time.monotonic() > until:
            break
        try:
            pixels = load_pixels(path)
        except Exception as error:  # decoders raise much besides OSError
            say(f"{path}: left out: {error}")
            continue
        unit = 4 * autoencoder.factor
        height, width = (min(side // unit * 4, CACHED_LATENTS) for side in pixels.shape[:2])
        if min(height, width) < SMALLEST_LATENTS:
            continue
        extent = height * autoencoder.factor, width * autoencoder.factor
        top, left = ((whole - part) // 2 for whole, part in zip(pixels.shape[:2], extent, strict=True))
        crop = pixels[top : top + extent[0], left : left + extent[1]]
        if len(found) % 2:  # mirrored before encoding: latents of a mirrored image are not the mirrored latents
            crop = crop[:, ::-1]
        images = torch.from_numpy(crop.copy()).to(on).permute(2, 0, 1)[None].float() / 255
        found.append(autoencoder.encode(images)[0].float().cpu())
        if len(found) % 20 == 0:
            say(f"latents of {len(found)} pictures")
    if len(found) < 2:
        smallest = SMALLEST_LATENTS * autoencoder.factor
        raise TrainingError(
            f"fewer than two pictures with sides of {smallest} pixels or more; name a folder with photographs"
        )
    count = max(1, min(VALIDATION_PICTURES, len(found) // VALIDATION_SHARE))
    return found[count:], found[:count]


class Crops:
    """Random windows of the cached latents, the same for the same seed and step."""

    def __init__(self, latents: list[Tensor], config: FitConfig) -> None:
        sides = sorted(min(own.shape[1:]) for own in latents)
        self.side = min(config.crop, sides[len(sides) // 2] // 4 * 4)
        self._latents = [own for own in latents if min(own.shape[1:]) >= self.side]
        self._seed = config.seed

    def batch(self, step: int, count: int) -> Tensor:
        """Return windows `[count, C, side, side]`."""
        random = np.random.default_rng((self._seed, step))
        crops = []
        for _ in range(count):
            own = self._latents[random.integers(len(self._latents))]
            top, left = (int(random.integers(size - self.side + 1)) for size in own.shape[1:])
            crops.append(own[:, top : top + self.side, left : left + self.side])
        return torch.stack(crops)


def deviations(latents: list[Tensor]) -> Tensor:
    """Return the standard deviation of each channel, `[C]`."""
    return torch.cat([own.flatten(1) for own in latents], 1).std(1)


def expected_bits(latents: list[Tensor], gain: Tensor) -> Tensor:
    """Return rough bits per latent of independent Gaussians at each quality, `[201]`.

    Rates are compared with them; without them, high qualities would rule the loss.
    """
    return 0.5 * torch.log2(1 + 4 * (deviations(latents) * gain).square()).mean(1) + 0.01
