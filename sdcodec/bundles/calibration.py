"""Quantiser steps for latents that were not trained to be quantised.

They are measured on a few images when a model is added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdcodec.autoencoders.diffusers import DiffusersAutoencoder
from sdcodec.constants import QUALITY_LEVELS
from sdcodec.errors import BundleError, ImageError
from sdcodec.pixels import read_picture

SIDE = 256  # pixels of a calibration picture; a multiple of every factor
MADE_PICTURES, MOST_PICTURES = 8, 16
PROBED_PICTURES = 2  # images for the decoder's gradient, the expensive part
LOWEST_BPP, HIGHEST_BPP = 0.02, 2.0  # with one table per channel; a prior that knows the neighbours takes less
MOST_BITS = 7.0  # per latent: the error of the autoencoder itself exceeds that of finer steps
WIDEST_RATIO = 3.0  # of a channel's step to the median one, in powers of two
# Results are rounded, in powers of two: the same model gets the same steps, and the same fingerprint, on machines
# whose floating point differs in the last digits.
CHANNEL_GRID, RANGE_GRID, GAIN_BITS = 1 / 4, 1 / 4, 12


@dataclass(frozen=True)
class Statistics:
    """Latents of the calibration images, and the decoder's sensitivity to them.

    latents: float64 `[C, N]`. sensitivity: `[C]`, the root of the summed squared changes of all samples in 0..1 for a
    change of 1 in a latent: the norm of the columns of the decoder's Jacobian.
    """

    latents: NDArray[np.float64]
    sensitivity: NDArray[np.float64]


def measure(autoencoder: DiffusersAutoencoder, pictures: NDArray[np.uint8]) -> Statistics:
    """Measure statistics on images uint8 `[N, 256, 256, 3]`.

    Raises BundleError if latents or images do not vary at all.
    """
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    latents = torch.cat([autoencoder.encode(image[None]) for image in images])
    flat = latents.double().transpose(0, 1).flatten(1).cpu().numpy()
    squares = torch.stack([_squared_columns(autoencoder, own[None]) for own in latents[:PROBED_PICTURES]]).mean(0)
    sensitivity = squares.double().sqrt().cpu().numpy()
    if not (flat.std(1) > 0).any() or not (sensitivity > 0).any():
        raise BundleError(
            "the autoencoder makes the same of every picture, as one that was never trained; give the folder of a trained one"
        )
    return Statistics(flat, sensitivity)


def _squared_columns(autoencoder: DiffusersAutoencoder, latents: Tensor) -> Tensor:
    """Return the mean over positions of the Jacobian's squared column norms, `[C]`.

    For white noise v, E[(Jᵀv)²] is the diagonal of JᵀJ (Hutchinson, 1989): one gradient gives all channels at once.
    """
    seen = latents.detach().requires_grad_()
    images = autoencoder.unclamped(seen)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(images.shape, generator=generator, dtype=torch.float32).to(images.device)
    (gradient,) = torch.autograd.grad((images * noise).sum(), seen)
    return gradient.float().square().mean((0, 2, 3))


def gain_rows(statistics: Statistics, factor: int) -> tuple[Tensor, Tensor]:
    """Return `gain` and `inverse_gain`, float32 `[201, C]`, for every quality index.

    Quantiser steps are log-linear in quality. Between channels they are inverse to the decoder's sensitivity, which
    costs the fewest bits for a given squared error of the image; the range goes from LOWEST_BPP to HIGHEST_BPP or
    MOST_BITS.
    """
    relative = -np.log2(np.maximum(statistics.sensitivity, statistics.sensitivity.max() * 2.0**-20))
    relative -= np.median(relative)
    relative = _on_grid(np.clip(relative, -WIDEST_RATIO, WIDEST_RATIO), CHANNEL_GRID)
    weighted = statistics.latents / np.exp2(relative)[:, None]
    per_pixel = len(relative) / factor**2
    coarsest = _scale_for(LOWEST_BPP / per_pixel, weighted)
    finest = _scale_for(min(HIGHEST_BPP / per_pixel, MOST_BITS), weighted)
    scale = coarsest + (finest - coarsest) * np.arange(QUALITY_LEVELS) / (QUALITY_LEVELS - 1)
    mantissa, exponent = np.frexp(np.exp2(-(relative + scale[:, None])))
    gain = np.ldexp(np.round(mantissa * 2**GAIN_BITS), exponent - GAIN_BITS)
    return torch.from_numpy(gain).float(), torch.from_numpy(1 / gain).float()


def _scale_for(bits: float, weighted: NDArray[np.float64]) -> float:
    """Return log2 of the largest step at which latents `[C, N]` take `bits` each.

    The step is on the grid; each channel has one table.
    """
    low, high = round(-40 / RANGE_GRID), round(40 / RANGE_GRID)
    while high - low > 1:
        middle = (low + high) // 2
        enough = _entropy(np.round(weighted / 2.0 ** (middle * RANGE_GRID))) >= bits
        low, high = (middle, high) if enough else (low, middle)
    return low * RANGE_GRID


def _entropy(symbols: NDArray[np.float64]) -> float:
    """Return bits per symbol of `[C, N]` with the known frequencies of each channel."""
    total = 0.0
    for own in symbols:
        frequency = np.unique(own, return_counts=True)[1] / len(own)
        total -= float((frequency * np.log2(frequency)).sum())
    return total / len(symbols)


def _on_grid(values: NDArray[np.float64], grid: float) -> NDArray[np.float64]:
    return np.round(values / grid) * grid


def pictures_from(folder: Path) -> NDArray[np.uint8]:
    """Return centre crops of up to 16 photographs of a folder.

    They are uint8 `[N, 256, 256, 3]`, in the order of their names; other files and smaller images are skipped. Raises
    ImageError if nothing is left.
    """
    middles: list[NDArray[np.uint8]] = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if len(middles) == MOST_PICTURES:
            break
        try:
            rgb = read_picture(path).rgb if path.is_file() else np.zeros((0, 0, 3), np.uint8)
        except ImageError:
            continue
        top, left = (rgb.shape[0] - SIDE) // 2, (rgb.shape[1] - SIDE) // 2
        if min(top, left) >= 0:
            middles.append(rgb[top : top + SIDE, left : left + SIDE])
    if not middles:
        raise ImageError(f"{folder}: no photographs of {SIDE} x {SIDE} pixels or more in it; give another folder")
    return np.stack(middles)


@cache
def made_pictures(count: int = MADE_PICTURES) -> NDArray[np.uint8]:
    """Make stand-ins for photographs, always the same: uint8 `[N, 256, 256, 3]`.

    Dead leaves: discs that hide one another, with radii whose density falls with the cube, have the scale-free edges
    of natural images (Lee, Mumford and Huang, 2001). Here each disc is shaded and has a texture of its own.
    """
    random = np.random.RandomState(20220822)  # the generator whose numbers never change between versions (NEP 19)
    return np.stack([_dead_leaves(random) for _ in range(count)])


def _dead_leaves(random: np.random.RandomState) -> NDArray[np.uint8]:
    grain = random.standard_normal((SIDE, SIDE))
    picture = np.empty((SIDE, SIDE, 3))
    mood = random.uniform(0.3, 0.7) + random.normal(0, 0.06, 3)  # the colours of a picture are related
    for radius in [2.0 * SIDE, *_radii(random)]:  # the first is the background
        centre = random.uniform(-radius / 2, SIDE + radius / 2, 2) if radius < SIDE else np.full(2, SIDE / 2)
        (top, left), (bottom, right) = (np.clip(centre + side, 0, SIDE).astype(int) for side in (-radius, radius + 1))
        box = slice(top, bottom), slice(left, right)
        y, x = np.mgrid[box].astype(np.float64)
        y, x = y - centre[0], x - centre[1]
        inside = y**2 + x**2 < radius**2
        colour = mood + random.normal(0, 0.2) + random.normal(0, 0.05, 3)
        slope = random.normal(0, 0.12, 2) / radius
        shade = slope[0] * y + slope[1] * x + abs(random.normal(0, 0.03)) * grain[box]
        picture[box][inside] = colour + shade[inside, None]
    return (picture.clip(0, 1) * 255).round().astype(np.uint8)


def _radii(random: np.random.RandomState, smallest: float = 4.0, count: int = 400) -> Sequence[float]:
    """Draw radii between `smallest` and half a side, with density ∝ radius⁻³."""
    largest = SIDE / 2
    uniform = random.uniform(0, 1, count)
    return list(1 / np.sqrt(uniform / smallest**2 + (1 - uniform) / largest**2))
