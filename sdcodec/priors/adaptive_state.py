"""Adaptive prior: parameters and state of blocks (docs/format.md, 4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdcodec.constants import MEAN_BITS
from sdcodec.priors.blocks import Block
from sdcodec.priors.lattices import LATTICES, Lattice

FINE_BITS = 8  # their inputs count in 2**-8 of a step
OFFSET_LIMIT = 63
CENTRE_LIMIT = 1 << 14
LATTICE_COUNT = len(LATTICES)


@dataclass(frozen=True)
class Parameters:
    """Side information of each block, int64.

    `regime` `[B]` chooses a set of weights; `lattice_offset` `[B, 7]` and `channel_offset` `[B, C]` are added to
    table indices; `centre` `[B, C]` is the middle of a channel's values, in whole quantiser steps.
    """

    regime: Tensor
    lattice_offset: Tensor
    channel_offset: Tensor
    centre: Tensor

    @classmethod
    def from_numbers(cls, numbers: Tensor, regimes: int) -> Parameters:
        """Read `[B, 8 + 2C]` numbers in the order of the file.

        Values of damaged data are clamped to their ranges.
        """
        channels = (numbers.shape[1] - 1 - LATTICE_COUNT) // 2
        regime, lattices, offsets, centre = torch.split(numbers, [1, LATTICE_COUNT, channels, channels], 1)
        return cls(
            regime[:, 0].clamp(0, regimes - 1),
            lattices.clamp(-OFFSET_LIMIT, OFFSET_LIMIT),
            offsets.clamp(-OFFSET_LIMIT, OFFSET_LIMIT),
            centre.clamp(-CENTRE_LIMIT, CENTRE_LIMIT),
        )

    def numbers(self) -> Tensor:
        """Return the numbers in the order of the file."""
        return torch.cat([self.regime[:, None], self.lattice_offset, self.channel_offset, self.centre], 1)


@dataclass
class Tile:
    """Blocks of one shape in a walk, `[B, C, h, w]`.

    `values` less the centre, predicted from the block alone, in 1/16 of a quantiser step, and absolute symbols
    `sizes`, int64, decide the tables; `whole_values`, int32, are those of the whole grid.
    """

    blocks: Sequence[Block]
    parameters: Parameters
    values: Tensor
    sizes: Tensor
    whole_values: Tensor

    @classmethod
    def empty(cls, blocks: Sequence[Block], parameters: Parameters, channels: int) -> Tile:
        """Return the state before the first pass."""
        shape, device = (len(blocks), channels, *blocks[0].shape), parameters.centre.device
        values, sizes = (torch.zeros(shape, dtype=torch.int64, device=device) for _ in range(2))
        return cls(blocks, parameters, values, sizes, torch.zeros(shape, dtype=torch.int32, device=device))

    def take(self, positions: Tensor, symbols: Tensor, own_means: Tensor, means: Tensor) -> None:
        """Take a pass's symbols `[B, N]`; `own_means` are without the centre."""
        coded = symbols << MEAN_BITS
        for plane, new in (
            (self.values, coded + own_means),
            (self.sizes, symbols.abs()),
            (self.whole_values, (coded + means).to(torch.int32)),
        ):
            plane.view(len(self.blocks), -1)[:, positions] = new


@dataclass(frozen=True)
class Surroundings:
    """Neighbours of a pass, int64 `[B, C, rows, columns]`.

    Undecoded ones count as zero. Values less the centre, in 1/16 of a step: `beside`, the sum of two in the row;
    `over`, of two in the column; `across`, of four diagonal ones. In 1/256 of a step, summed over all eight: `own`,
    the absolute symbols of the channel; `every`, their mean over all channels; `level`, the mean of all channels'
    absolute values. `bend` is |beside - over|.
    """

    beside: Tensor
    over: Tensor
    across: Tensor
    own: Tensor
    every: Tensor
    level: Tensor
    bend: Tensor


def surroundings(values: Tensor, sizes: Tensor, place: Lattice) -> Surroundings:
    """Look at the neighbours of a lattice.

    `values` less the centre and absolute symbols `sizes` are int64 `[B, C, h, w]`, zero before they are decoded.
    """
    channels = values.shape[1]
    beside, over, across = place.beside(values), place.over(values), place.across(values)
    every = torch.div(sizes.sum(1, keepdim=True) << FINE_BITS, channels, rounding_mode="floor")
    level = torch.div(values.abs().sum(1, keepdim=True) << (FINE_BITS - MEAN_BITS), channels, rounding_mode="floor")
    return Surroundings(
        beside,
        over,
        across,
        _around(sizes, place) << FINE_BITS,
        _around(every, place),
        _around(level, place),
        (beside - over).abs() << (FINE_BITS - MEAN_BITS),
    )


def _around(plane: Tensor, place: Lattice) -> Tensor:
    return place.beside(plane) + place.over(plane) + place.across(plane)
