"""What the eye sees and squared error hardly counts: wrong colours of whole areas, and the decoder's own grid."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

CAST_SIDE = 16  # pixels; an area whose mean colour is compared
CELL = 8  # pixels; a latent's, after which a decoder's patterns repeat
CELLS = 6  # along a side, over which a pattern has to repeat to count as one


def cast(error: Tensor) -> Tensor:
    """Mean squared error of the colours of 16x16 areas, `[B]`, of `error` `[B, 3, H, W]`: blotches and colour casts."""
    return F.avg_pool2d(error, CAST_SIDE).square().mean(dim=(1, 2, 3))


def grid(error: Tensor) -> Tensor:
    """Mean square of what repeats from latent to latent in `error` `[B, 3, H, W]`, `[B]`: a grid over smooth areas.

    The error at each of the 8x8 places in a cell, averaged over 6x6 cells, less the mean over places. Texture and noise average
    out to a 36th; a pattern stays whole.
    """
    places = F.pixel_unshuffle(error, CELL)  # [B, 3 * 64, H/8, W/8], the places of one colour together
    means = F.avg_pool2d(places, min(CELLS, *places.shape[2:]), stride=CELLS // 2).unflatten(1, (error.shape[1], -1))
    return (means - means.mean(2, keepdim=True)).square().mean(dim=(1, 2, 3, 4))
