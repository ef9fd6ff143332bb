"""Order of the adaptive prior: seven interleaved lattices, coarse to fine."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# (first row, first column, stride, reach): a coarse grid of every fourth latent, its centres and its sides, then the
# same at half the spacing. Seven passes cover every position once; 1/16 of the symbols have no neighbours.
LATTICES = (
    (0, 0, 4, 2),
    (2, 2, 4, 2),
    (0, 2, 4, 2),
    (2, 0, 4, 2),
    (1, 1, 2, 1),
    (0, 1, 2, 1),
    (1, 0, 2, 1),
)

REACH = max(reach for *_, reach in LATTICES)


@dataclass(frozen=True)
class Lattice:
    """One pass: its rows and columns, and their neighbours at distance `reach`.

    All are int64 `[n]`. A neighbour outside the block is replaced by the one on the other side.
    """

    rows: Tensor
    above: Tensor
    below: Tensor
    columns: Tensor
    left: Tensor
    right: Tensor

    def at(self, plane: Tensor) -> Tensor:
        """Return the values of `[..., h, w]` at the lattice, `[..., rows, columns]`."""
        return _taken(plane, self.rows, self.columns)

    def beside(self, plane: Tensor) -> Tensor:
        """Return the sum of the two neighbours in the row."""
        here = plane.index_select(-2, self.rows)
        return here.index_select(-1, self.left) + here.index_select(-1, self.right)

    def over(self, plane: Tensor) -> Tensor:
        """Return the sum of the two neighbours in the column."""
        here = plane.index_select(-1, self.columns)
        return here.index_select(-2, self.above) + here.index_select(-2, self.below)

    def across(self, plane: Tensor) -> Tensor:
        """Return the sum of the four diagonal neighbours."""
        here = plane.index_select(-2, self.above) + plane.index_select(-2, self.below)
        return here.index_select(-1, self.left) + here.index_select(-1, self.right)

    def around(self, rows: slice, columns: slice) -> tuple[tuple[slice, slice], Lattice]:
        """Return the place of a block with its neighbours, and the lattice in there."""
        own_rows = (self.rows >= rows.start) & (self.rows < rows.stop)
        own_columns = (self.columns >= columns.start) & (self.columns < columns.stop)
        lines = [own[own_rows] for own in (self.rows, self.above, self.below)]
        lines += [own[own_columns] for own in (self.columns, self.left, self.right)]
        top, left = max(0, rows.start - REACH), max(0, columns.start - REACH)
        near = slice(top, rows.stop + REACH), slice(left, columns.stop + REACH)
        return near, Lattice(*(own - top for own in lines[:3]), *(own - left for own in lines[3:]))

    def flat(self, channels: int, height: int, width: int) -> Tensor:
        """Return flat indices into `[C, h, w]` of the lattice in every channel.

        They go channel by channel, in raster order.
        """
        plane = self.rows[:, None] * width + self.columns
        return (torch.arange(channels, device=plane.device)[:, None] * (height * width) + plane.flatten()).flatten()


def lattice(index: int, height: int, width: int, device: torch.device) -> Lattice:
    """Return lattice `index` of a block; height and width are multiples of 4."""
    first_row, first_column, stride, reach = LATTICES[index]
    lines = [_line(first, stride, reach, size) for first, size in ((first_row, height), (first_column, width))]
    return Lattice(*(part.to(device) for line in lines for part in line))


def decoded_before(index: int, height: int, width: int, device: torch.device) -> Tensor:
    """Return where lattices before `index` are, int64 `[h, w]` of 0 and 1."""
    plane = torch.zeros(height, width, dtype=torch.int64, device=device)
    for first_row, first_column, stride, _ in LATTICES[:index]:
        plane[first_row::stride, first_column::stride] = 1
    return plane


def _line(first: int, stride: int, reach: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    own = torch.arange(first, size, stride)
    before, after = own - reach, own + reach
    return own, torch.where(before < 0, after, before), torch.where(after >= size, before, after)


def _taken(plane: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    return plane.index_select(-2, rows).index_select(-1, columns)
