"""Compute distortion terms beside LPIPS and DISTS: pixels and luma structure."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LARGEST_ERROR = 128.0  # levels; an error beyond it counts linearly, so that one pixel cannot rule a step
CAST_SIDE = 16  # pixels; side of an area whose mean colour is compared
CELL = 8  # pixels; side of a latent, the period of a decoder's patterns
CELLS = 6  # cells along a side over which a pattern has to repeat to count

STRUCTURE_SCALES = 3  # 1/2, 1/4 and 1/8 of the image's size
WINDOW_SIGMA, WINDOW_RADIUS = 1.5, 5
STRUCTURE_STABILITY = 0.03**2  # C2 of SSIM
# Linear RGB to the responses of long and medium cones, and the bias before the cube root (JPEG XL's XYB).
CONES = ((0.30, 0.622, 0.078), (0.23, 0.692, 0.078))
CONE_BIAS = 0.0037930733


def squared(error: Tensor) -> Tensor:
    """Return the mean squared error `[B]` of `error` `[B, 3, H, W]`, in levels.

    Beyond `LARGEST_ERROR` an error counts linearly, with the slope that the square has there.
    """
    zero = torch.zeros_like(error)
    return 2 * F.huber_loss(error, zero, reduction="none", delta=LARGEST_ERROR).mean(dim=(1, 2, 3))


def cast(error: Tensor) -> Tensor:
    """Return the mean squared error `[B]` of the colours of 16x16 areas.

    `error` is `[B, 3, H, W]`. The term counts blotches and colour casts.
    """
    return F.avg_pool2d(error, CAST_SIDE).square().mean(dim=(1, 2, 3))


def grid(error: Tensor) -> Tensor:
    """Return the mean square `[B]` of the pattern that repeats from cell to cell.

    `error` is `[B, 3, H, W]`. The error at each of the 8x8 places in a cell is averaged over 6x6 cells, and the mean
    over places is subtracted. Texture and noise average out to a 36th; a pattern stays whole.
    """
    places = F.pixel_unshuffle(error, CELL)  # [B, 3 * 64, H/8, W/8], the places of one colour together
    means = F.avg_pool2d(places, min(CELLS, *places.shape[2:]), stride=CELLS // 2).unflatten(1, (error.shape[1], -1))
    return (means - means.mean(2, keepdim=True)).square().mean(dim=(1, 2, 3, 4))


def structure(images: Tensor, references: Tensor) -> Tensor:
    """Return the mean of 1 - SSIM of luma at 1/2, 1/4 and 1/8 of the size, `[B]`.

    Inputs are `[B, 3, H, W]` in [0, 1], sides at least 64. The term of means is 1 - (difference of means)², as in
    SSIMULACRA 2.
    """
    ours, theirs = luma(images), luma(references)
    total = ours.new_zeros(ours.shape[0])
    for _ in range(STRUCTURE_SCALES):
        ours, theirs = F.avg_pool2d(ours, 2), F.avg_pool2d(theirs, 2)
        total = total + (1 - similarity(ours, theirs)).mean(dim=(1, 2, 3)) / STRUCTURE_SCALES
    return total


def luma(images: Tensor) -> Tensor:
    """Return the luma Y of XYB, `[B, 1, H, W]`, of sRGB images in [0, 1]."""
    images = images.clamp(0, 1)
    # The inner clamp keeps the gradient of the power finite in the branch that is not taken.
    power = ((images.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4
    linear = torch.where(images <= 0.04045, images / 12.92, power)
    red, green, blue = linear.unbind(1)
    cones = [(r * red + g * green + b * blue + CONE_BIAS) ** (1 / 3) for r, g, b in CONES]
    return torch.stack(cones, 1).mean(1, keepdim=True)


def similarity(x: Tensor, y: Tensor) -> Tensor:
    """Return the map of structural similarity of planes `[B, 1, H, W]`, likewise."""
    x_mean, y_mean = _blurred(x), _blurred(y)
    x_variance, y_variance = _blurred(x * x) - x_mean**2, _blurred(y * y) - y_mean**2
    covariance = _blurred(x * y) - x_mean * y_mean
    means = 1 - (x_mean - y_mean) ** 2
    return means * (2 * covariance + STRUCTURE_STABILITY) / (x_variance + y_variance + STRUCTURE_STABILITY)


def _blurred(x: Tensor) -> Tensor:
    """Return planes averaged in Gaussian windows, with mirrored borders."""
    places = torch.arange(-WINDOW_RADIUS, WINDOW_RADIUS + 1, device=x.device, dtype=x.dtype)
    window = torch.exp(-0.5 * (places / WINDOW_SIGMA) ** 2)
    window = window / window.sum()
    border = (WINDOW_RADIUS, WINDOW_RADIUS)
    x = F.conv2d(F.pad(x, (*border, 0, 0), mode="reflect"), window.view(1, 1, 1, -1))
    return F.conv2d(F.pad(x, (0, 0, *border), mode="reflect"), window.view(1, 1, -1, 1))
