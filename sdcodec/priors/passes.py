"""Passes: symbols that are coded together (docs/format.md, 4.1).

They go over channel groups and positions in 2x2 cells.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

GROUPS = 4
PASSES = 4
# The first of the four passes in four parts, each seeing the earlier ones: for latents that their neighbours predict well.
PASSES_IN_PARTS = 7
# Order in which the four positions (row, column) of a 2x2 cell are visited: the diagonal first, so that the second
# visit has neighbours on both diagonals and the last two have all four.
DIAGONAL_ORDER = {(0, 0): 0, (1, 1): 1, (0, 1): 2, (1, 0): 3}


def pass_masks(channels: int, height: int, width: int, passes: int = PASSES) -> NDArray[np.bool_]:
    """Return the symbols of each pass, `[passes, channels, height, width]`.

    One pass codes everything. Of four, pass k codes, for channel group g, the positions of order (k + g) mod 4. Of
    seven, pass k < 4 codes those of order g in the cells that, among 2x2 cells, have the order k; pass k > 3 those of
    order (k - 3 + g) mod 4.
    """
    if passes == 1:
        return np.ones((1, channels, height, width), dtype=np.bool_)
    order = cell_order(height, width)[None, None]
    group = (np.arange(channels) * GROUPS // channels)[None, :, None, None]
    index = np.arange(GROUPS)[:, None, None, None]
    whole = order == (index + group) % GROUPS
    if passes == PASSES:
        return whole
    cells = _order_of_cells(height, width)[None, None] == index
    return np.concatenate([whole[:1] & cells, whole[1:]])


def pass_lines(height: int, width: int, k: int, passes: int = PASSES) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows and the columns of pass k, each ascending."""
    rows, columns = np.arange(height), np.arange(width)
    if passes != PASSES_IN_PARTS or k >= GROUPS:
        return rows, columns
    row, column = next(place for place, rank in DIAGONAL_ORDER.items() if rank == k)
    return rows[rows // 2 % 2 == row], columns[columns // 2 % 2 == column]


def cell_order(height: int, width: int) -> NDArray[np.int64]:
    """Return each position's rank in the diagonal order, 0..3, `[height, width]`."""
    order = np.zeros((height, width), dtype=np.int64)
    for (row, column), rank in DIAGONAL_ORDER.items():
        order[row::2, column::2] = rank
    return order


def _order_of_cells(height: int, width: int) -> NDArray[np.int64]:
    """Return the rank 0..3 of each position's 2x2 cell among its neighbours."""
    cells = cell_order(-(-height // 2), -(-width // 2))
    return cells.repeat(2, 0).repeat(2, 1)[:height, :width]
