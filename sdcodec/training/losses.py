"""Losses for colour casts and for the decoder's grid, which MSE hardly counts."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

CAST_SIDE = 16  # pixels; areas whose mean colours are compared
CELL = 8  # pixels of a latent, after which a decoder's patterns repeat
CELLS = 6  # cells along a side, over which a pattern has to repeat


def cast(error: Tensor) -> Tensor:
    """Return the mean squared error of the colours of 16x16 areas, `[B]`.

    `error` is `[B, 3, H, W]`. It counts blotches and colour casts.
    """
    return F.avg_pool2d(error, CAST_SIDE).square().mean(dim=(1, 2, 3))


def grid(error: Tensor) -> Tensor:
    """Return the mean square of patterns that repeat from latent to latent, `[B]`.

    `error` is `[B, 3, H, W]`: its mean at each of the 8x8 places in a cell over 6x6 cells, less the mean over places.
    Texture and noise average out to a 36th; a grid stays whole.
    """
    places = F.pixel_unshuffle(error, CELL)  # [B, 3 * 64, H/8, W/8], the places of one colour together
    means = F.avg_pool2d(places, min(CELLS, *places.shape[2:]), stride=CELLS // 2).unflatten(1, (error.shape[1], -1))
    return (means - means.mean(2, keepdim=True)).square().mean(dim=(1, 2, 3, 4))
