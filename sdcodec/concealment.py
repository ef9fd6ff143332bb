"""Filling of lost parts of a latent grid from what is around them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def conceal(values: Tensor, lost: Sequence[tuple[slice, slice]]) -> None:
    """Fill rows and columns of integers `[C, h, w]` smoothly, in place.

    Means of known values at 1/2, 1/4, ... of the size fill the next finer level at the gaps ("push-pull";
    Gortler et al., SIGGRAPH 1996). Something has to be known.
    """
    known = torch.ones(1, 1, *values.shape[1:])
    for rows, columns in lost:
        known[:, :, rows, columns] = 0
    filled = _filled(values[None].float() * known, known)[0].round().to(values.dtype)
    for rows, columns in lost:
        values[:, rows, columns] = filled[:, rows, columns]


def _filled(sums: Tensor, weights: Tensor) -> Tensor:
    """Return `[1, C, h, w]` without gaps.

    `weights` `[1, 1, h, w]` are 1 where values are known, 0 elsewhere.
    """
    if bool(weights.min() > 0):
        return sums
    height, width = sums.shape[2:]
    odd = (0, width % 2, 0, height % 2)
    halves = [F.avg_pool2d(F.pad(plane, odd), 2) for plane in (sums, weights)]
    coarse = _filled(halves[0] / halves[1].clamp(min=1e-12), (halves[1] > 0).float())
    finer = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)[:, :, :height, :width]
    return torch.where(weights > 0, sums, finer)
