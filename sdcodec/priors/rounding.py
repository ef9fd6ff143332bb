"""Rounding of latents to symbols: to the nearest, or with a weight of their bits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from sdcodec.coding.rangecoder import SYMBOL_LIMIT
from sdcodec.coding.tables import FrequencyTables


@dataclass(frozen=True)
class Rounding:
    """Thresholds between a number of steps from the mean and the next one outwards.

    lowered: distance of all thresholds below one half. Above zero, files get larger.
    worth: bits that a squared error of one step is worth; None if bits do not count.
    """

    lowered: float = 0.0
    worth: float | None = None

    def lower(self, by: float) -> Rounding:
        """Return the same rounding with all thresholds lower by `by`."""
        return replace(self, lowered=self.lowered + by)

    def symbols(self, away: Tensor, indices: Tensor, tables: FrequencyTables, coded: float = 1.0) -> Tensor:
        """Round distances `away` from the means, in quantiser steps, to symbols, int64.

        `indices` are table indices of the same shape. With `worth` this is rate-distortion optimised quantisation
        over the two nearest candidates: going from k - 1 to k steps costs b more bits and saves worth * (2 |away| - 2
        k + 1), so it pays from |away| = k - 1/2 + b / (2 worth) on. `coded` is the share of all latents that are
        coded after this pass: early symbols predict the others, and errors there cost more bits than they save. The
        excess over one half is scaled by its square.
        """
        size = away.abs()
        symbols = (size + (0.5 + self.lowered)).floor_().clamp_(0, SYMBOL_LIMIT)
        if self.worth is not None:
            further = further_bits(tables, away.device)
            place = symbols.long().clamp_(max=further.shape[1] - 1)
            excess = further[indices, place].mul_(coded**2 / (2 * self.worth))
            nearer = (size < symbols - (0.5 + self.lowered) + excess) & (symbols > 0)
            symbols -= nearer.to(symbols.dtype)
        symbols = symbols.mul_(away.sign()).long()
        return symbols.masked_fill_(indices == 0, 0)  # under the narrowest table nothing is coded


@lru_cache(maxsize=16)
def further_bits(tables: FrequencyTables, device: torch.device) -> Tensor:
    """Return `FrequencyTables.further_bits` on a device."""
    return torch.from_numpy(tables.further_bits).to(device)


PLAIN = Rounding()
