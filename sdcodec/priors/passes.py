"""Which symbols are coded together: four passes over channel groups and positions in 2x2 cells (design, section 4)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PASSES = 4
# Order in which the four positions (row, column) of a 2x2 cell are visited: the diagonal first, so that the second
# visit has neighbours on both diagonals and the last two have all four.
DIAGONAL_ORDER = {(0, 0): 0, (1, 1): 1, (0, 1): 2, (1, 0): 3}


def pass_masks(channels: int, height: int, width: int) -> NDArray[np.bool_]:
    """`[4, channels, height, width]`: pass k codes, for channel group g, the positions of order (k + g) mod 4."""
    order = np.zeros((height, width), dtype=np.int64)
    for (row, column), rank in DIAGONAL_ORDER.items():
        order[row::2, column::2] = rank
    group = np.arange(channels) * PASSES // channels
    index = np.arange(PASSES)
    return order[None, None] == (index[:, None] + group[None, :])[:, :, None, None] % PASSES


def cell_order(height: int, width: int) -> NDArray[np.int64]:
    """`[height, width]`: each position's rank in the diagonal order, 0..3."""
    order = np.zeros((height, width), dtype=np.int64)
    for (row, column), rank in DIAGONAL_ORDER.items():
        order[row::2, column::2] = rank
    return order
