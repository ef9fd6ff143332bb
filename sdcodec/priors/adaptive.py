"""Adaptive prior: no network and nothing to train.

It predicts integers from their neighbours, with a few parameters in the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdcodec import tiling
from sdcodec.coding.tables import FrequencyTables
from sdcodec.constants import BLOCK_LATENTS, MEAN_BITS, MEAN_LIMIT, SCALE_COUNT
from sdcodec.priors.adaptive_state import (
    CENTRE_LIMIT,
    FINE_BITS,
    LATTICE_COUNT,
    Parameters,
    Surroundings,
    Tile,
    surroundings,
)
from sdcodec.priors.blocks import Block, block_batches, paste
from sdcodec.priors.lattices import Lattice, decoded_before, lattice
from sdcodec.priors.protocol import SymbolSource
from sdcodec.priors.sources import SymbolQuantiser
from sdcodec.shapes import check_shapes

WEIGHT_BITS = 10  # weights of neighbours count in 2**-10
SIZE_BITS = 12  # expected sizes of symbols count in 2**-12 of a step
LOWEST_TABLE = 1  # under table 0 nothing is coded, so an unexpected symbol would be lost
OFFSETS_TRIED = 5  # table offsets from -5 to 5: scales from 0.57 to 1.75 times the predicted ones
REGIME_RANGE = 0.9  # of the logarithm of a size
REGIME_SAMPLE = 32  # latents along a side of the sample that chooses a regime


@dataclass(frozen=True)
class AdaptiveConfig:
    """Channels of the latents, and number of sets of weights."""

    latent_channels: int
    regimes: int

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of every tensor that the prior reads."""
        parameters = 1 + LATTICE_COUNT + 2 * self.latent_channels
        return {
            "mean_weights": (self.regimes, LATTICE_COUNT, 3),
            "size_weights": (self.regimes, LATTICE_COUNT, 5),
            "size_edges": (SCALE_COUNT - 1,),
            "side_middle": (parameters,),
            "side_table": (parameters,),
        }


class AdaptivePrior:
    """The adaptive prior; `sdcodec.priors.adaptive_tables` makes its tensors."""

    def __init__(
        self, config: AdaptiveConfig, tensors: Mapping[str, Tensor], tables: FrequencyTables, device: torch.device
    ) -> None:
        """Load the prior. Raises BundleError if tensors do not fit the configuration."""
        check_shapes("prior", config.tensor_shapes(), tensors)
        self.tables = tables
        self.device = device
        self.channels, self.regimes = config.latent_channels, config.regimes
        self._mean_weights = tensors["mean_weights"].to(device).long()
        self._size_weights = tensors["size_weights"].to(device).long()
        self._edges = tensors["size_edges"].to(device).long()
        self._side_middle = tensors["side_middle"].to(device).long()
        self._side_table = tensors["side_table"].to(device).long()

    @torch.no_grad()
    def walk(self, shape: tuple[int, int, int], quality_index: int, source: SymbolSource) -> Tensor:
        """Walk over parameters first, then seven passes of symbols, coarse to fine.

        See Prior. The parameters replace the quality, so `quality_index` has no influence.
        """
        blocks = [(own, self._asked(own, source)) for own in block_batches(*shape)]
        return self._passes(shape, blocks, source)

    def _asked(self, blocks: Sequence[Block], source: SymbolSource) -> Parameters:
        """Ask for the parameters of blocks."""
        middle = (self._side_middle << MEAN_BITS).expand(len(blocks), -1)
        everything = torch.arange(middle.shape[1], device=middle.device)
        tables = self._side_table.expand(len(blocks), -1)
        numbers = source.hyper(blocks, everything, middle, tables) + self._side_middle
        return Parameters.from_numbers(numbers, self.regimes)

    def _passes(
        self,
        shape: tuple[int, int, int],
        batches: Sequence[tuple[Sequence[Block], Parameters]],
        source: SymbolSource,
    ) -> Tensor:
        items, height, width = shape
        tiles = [Tile.empty(blocks, own, self.channels) for blocks, own in batches]
        alone = shape[1:] == tiles[0].blocks[0].shape
        values = torch.zeros(items, self.channels, height, width, dtype=torch.int32, device=self.device)
        for index in range(LATTICE_COUNT):
            place = lattice(index, height, width, self.device)
            for tile in tiles:
                within = lattice(index, *tile.blocks[0].shape, self.device)
                positions = within.flat(self.channels, *tile.blocks[0].shape)
                seen = surroundings(tile.values, tile.sizes, within)
                own_means, tables = self._predicted(index, seen, tile.parameters)
                means = own_means if alone else self._means_of_grid(index, values, place, tile)
                centre = (tile.parameters.centre << MEAN_BITS).repeat_interleave(means.shape[1] // self.channels, 1)
                symbols = source.latents(tile.blocks, positions, means + centre, tables)
                tile.take(positions, symbols, own_means, means + centre)
            for tile in tiles:  # a pass sees nothing of itself
                paste(values, tile.blocks, tile.whole_values)
        return values

    def _means_of_grid(self, index: int, values: Tensor, place: Lattice, tile: Tile) -> Tensor:
        """Predict the symbols of lattice `index` from whole grids, for some blocks.

        `values` are `[B, C, h, w]`. Returns means less the centres, in 1/16 of a quantiser step,
        `[blocks, C * rows * columns]`.
        """
        known = decoded_before(index, values.shape[2], values.shape[3], values.device)
        results = []
        for number, block in enumerate(tile.blocks):
            near, own = place.around(block.rows, block.columns)
            centre = (tile.parameters.centre[number] << MEAN_BITS)[:, None, None]
            away = (values[block.item][:, *near].long() - centre) * known[near]
            sums = own.beside(away), own.over(away), own.across(away)
            results.append(self._mean(index, sums, tile.parameters.regime[number : number + 1]).flatten())
        return torch.stack(results)

    def _mean(self, index: int, sums: tuple[Tensor, Tensor, Tensor], regime: Tensor) -> Tensor:
        """Return means for the sums of neighbours beside, over and across."""
        a = _spread_out(self._mean_weights[regime, index])
        mean = a[0] * sums[0] + a[1] * sums[1] + a[2] * sums[2]
        return ((mean + (1 << (WEIGHT_BITS - 1))) >> WEIGHT_BITS).clamp_(-MEAN_LIMIT, MEAN_LIMIT)

    def _predicted(self, index: int, seen: Surroundings, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """Predict the symbols of lattice `index`, `[B, C * rows * columns]`.

        Returns means less the centre, in 1/16 of a quantiser step, and table indices.
        """
        mean = self._mean(index, (seen.beside, seen.over, seen.across), parameters.regime)
        b = _spread_out(self._size_weights[parameters.regime, index])
        size = b[1] * seen.own + b[2] * seen.every + b[3] * seen.level + b[4] * seen.bend
        table = torch.bucketize((size >> FINE_BITS) + b[0], self._edges, right=True)
        table += (parameters.lattice_offset[:, index, None] + parameters.channel_offset)[:, :, None, None]
        return mean.flatten(1), table.clamp_(LOWEST_TABLE, self.tables.count - 1).flatten(1)

    # The encoder's side

    @torch.no_grad()
    def hyper_latents(self, scaled_latents: Tensor, quality_index: int) -> list[Tensor]:
        """Choose the parameters that code each block of `[B, C, h, w]` best.

        Returns float `[B, 8 + 2C]` for each block in raster order.
        """
        places = tiling.blocks(scaled_latents.shape[2], scaled_latents.shape[3], BLOCK_LATENTS)
        return [self._fitted_all(scaled_latents[:, :, rows, columns].float()) for rows, columns in places]

    def _fitted_all(self, scaled: Tensor) -> Tensor:
        return torch.cat([self._fitted(own[None]) for own in scaled]).float()

    def _fitted(self, scaled: Tensor) -> Tensor:
        """Fit the parameters of one block `[1, C, h, w]`."""
        centre = scaled.mean((2, 3)).round().long().clamp_(-CENTRE_LIMIT, CENTRE_LIMIT)
        regime = self._cheapest_regime(scaled, centre)
        _, lattices, channels = self._offsets(scaled, regime, centre)
        return Parameters(
            torch.tensor([regime], device=self.device),
            torch.from_numpy(lattices)[None].to(self.device),
            torch.from_numpy(channels)[None].to(self.device),
            centre,
        ).numbers()

    def _cheapest_regime(self, scaled: Tensor, centre: Tensor) -> int:
        """Choose the regime with the fewest bits, among those for symbols of this size.

        A part of the block is as good as the whole.
        """
        sample = scaled[:, :, :REGIME_SAMPLE, :REGIME_SAMPLE]
        # Without neighbours, the first lattice's weight is the expected size of a symbol.
        size = float((sample - centre[:, :, None, None]).abs().mean()) * (1 << SIZE_BITS)
        away = (self._size_weights[:, 0, 0].clamp(min=1).float() / max(size, 1.0)).log().abs().tolist()
        likely = [r for r in range(self.regimes) if away[r] <= max(REGIME_RANGE, min(away))]
        bits = [self._offsets(sample, regime, centre)[0] for regime in likely]
        return likely[bits.index(min(bits))]

    def _offsets(
        self, scaled: Tensor, regime: int, centre: Tensor
    ) -> tuple[float, NDArray[np.int64], NDArray[np.int64]]:
        """Return the fewest bits of a block `[1, C, h, w]` in a regime.

        Also returns the offsets of lattices and channels that reach them.
        """
        watch = _OffsetCosts(scaled, self)
        shape = (1, *scaled.shape[2:])
        [blocks] = block_batches(*shape)
        self._passes(shape, [(blocks, self._without_offsets(regime, centre))], watch)
        return _best_offsets(np.stack(watch.costs), *self._side_costs)

    def _without_offsets(self, regime: int, centre: Tensor) -> Parameters:
        none = torch.zeros(1, LATTICE_COUNT, dtype=torch.int64, device=self.device)
        return Parameters(torch.tensor([regime], device=self.device), none, torch.zeros_like(centre), centre)

    @cached_property
    def _side_costs(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Bits of each offset from -5 to 5, of a lattice and of a channel."""
        tried = np.arange(-OFFSETS_TRIED, OFFSETS_TRIED + 1)
        tables = self._side_table.cpu().numpy()
        lattice_costs, channel_costs = (
            np.array([self.tables.log2_cost(np.array([v]), tables[i : i + 1]) for v in tried])
            for i in (1, 1 + LATTICE_COUNT)
        )
        return lattice_costs, channel_costs


class _OffsetCosts(SymbolQuantiser):
    """Sums the costs of each lattice and channel with their tables moved by -5 to 5."""

    def __init__(self, scaled: Tensor, prior: AdaptivePrior) -> None:
        super().__init__(scaled, [], prior.tables)
        self._channels = prior.channels
        self.costs: list[NDArray[np.float64]] = []  # of each lattice, [C, 11]

    def take(self, blocks: Sequence[Block], symbols: NDArray[np.int64], tables: NDArray[np.int64]) -> None:
        own_symbols, own_tables = symbols.reshape(self._channels, -1), tables.reshape(self._channels, -1)
        tried = range(-OFFSETS_TRIED, OFFSETS_TRIED + 1)
        moved = [(own_tables + offset).clip(LOWEST_TABLE, self._tables.count - 1) for offset in tried]
        self.costs.append(np.stack([self._tables.costs(own_symbols, own).sum(1) for own in moved], 1))


def _best_offsets(
    costs: NDArray[np.float64], lattice_costs: NDArray[np.float64], channel_costs: NDArray[np.float64]
) -> tuple[float, NDArray[np.int64], NDArray[np.int64]]:
    """Choose offsets of lattices and channels that together cost least, by turns.

    `costs` is `[7, C, 11]`.
    """
    count, channels, tried = costs.shape
    lattices, own = np.zeros(count, np.int64), np.zeros(channels, np.int64)
    offsets = np.arange(tried) - OFFSETS_TRIED
    bits = 0.0
    for _ in range(3):
        places = (own[None, :] + offsets[:, None] + OFFSETS_TRIED).clip(0, tried - 1)  # [11, C]
        totals = costs[:, np.arange(channels), places].sum(2) + lattice_costs
        lattices = offsets[totals.argmin(1)]
        places = (lattices[None, :] + offsets[:, None] + OFFSETS_TRIED).clip(0, tried - 1)  # [11, 7]
        totals = costs[np.arange(count)[None, :], :, places].sum(1).T + channel_costs
        own = offsets[totals.argmin(1)]
        bits = float(totals.min(1).sum())
    return bits, lattices, own


def _spread_out(weights: Tensor) -> list[Tensor]:
    """Return `[B, n]` as n tensors `[B, 1, 1, 1]`."""
    return [own[:, None, None, None] for own in weights.unbind(1)]
