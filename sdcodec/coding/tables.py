"""Frozen frequency tables: integers that a bundle stores.

They are never recomputed from floating point when files are read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sdcodec.constants import SCALE_COUNT, SCALE_MAX, SCALE_MIN
from sdcodec.errors import BundleError

TOTAL = 1 << 16  # sum of the frequencies of a table
RADIUS_SIGMAS = 6.0  # a Gaussian leaves 2e-9 outside
RADIUS_LIMIT = 768


def scales() -> NDArray[np.float64]:
    """Return the standard deviations of the frozen tables, `[64]`, in quantiser steps."""
    return np.geomspace(SCALE_MIN, SCALE_MAX, SCALE_COUNT)


def escape_bits(excess: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the bits of an escaped symbol.

    They are the Exp-Golomb code of `excess` = |symbol| - radius - 1 (>= 0), and a sign.
    """
    return 2 * np.floor(np.log2(excess + 1)).astype(np.int64) + 2


class FrequencyTables:
    """Tables over symbols -radius..radius and an escape, one for each scale index.

    Every frequency is at least 1, and each table's add up to 2**16. Symbols under table 0 are zero and not coded at
    all.
    """

    def __init__(self, radius: NDArray[np.int64], frequencies: Sequence[NDArray[np.int64]]) -> None:
        """Check the tables: `radius` `[count]`, `frequencies[t]` `[2 * radius[t] + 2]`.

        Raises BundleError if they are not as described.
        """
        self.radius = radius.astype(np.int64)
        self._frequencies = [table.astype(np.int64) for table in frequencies]
        for index, (reach, table) in enumerate(zip(self.radius, self._frequencies, strict=True)):
            if len(table) != 2 * reach + 2 or table.min() < 1 or table.sum() != TOTAL:
                raise BundleError(f"frequency table {index} is broken; the bundle is damaged, install it again")

    @property
    def count(self) -> int:
        """Number of tables."""
        return len(self._frequencies)

    def frequencies(self, table: int) -> NDArray[np.int64]:
        """Return the frequencies of -radius..radius and of the escape; their sum is 2**16."""
        return self._frequencies[table]

    @cached_property
    def _costs(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        costs = [-np.log2(table / TOTAL) for table in self._frequencies]
        costs[0] = np.zeros_like(costs[0])
        starts = np.concatenate([[0], np.cumsum([len(cost) for cost in costs])[:-1]])
        return np.concatenate(costs), starts

    @cached_property
    def further_bits(self) -> NDArray[np.float32]:
        """Bits by which a symbol of size k is longer than one of size k - 1, `[count, K]`.

        Zero at k = 0, and for sizes that a table escapes: they are rare, and rounding leaves them alone.
        """
        further = np.zeros((self.count, int(self.radius.max()) + 2), np.float32)
        for table in range(1, self.count):
            radius = int(self.radius[table])
            costs = -np.log2(self._frequencies[table][radius : 2 * radius + 1] / TOTAL)
            further[table, 1 : radius + 1] = np.maximum(np.diff(costs), 0)
        return further

    def costs(self, symbols: NDArray[np.int64], table_index: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the ideal code length in bits of each symbol under its table.

        Escapes are included; symbols and tables have the same shape.
        """
        costs, starts = self._costs
        radius = self.radius[table_index]
        size = np.abs(symbols)
        escaped = size > radius
        bits = costs[starts[table_index] + np.where(escaped, 2 * radius + 1, symbols + radius)]
        if escaped.any():
            bits[escaped] += escape_bits((size - radius - 1)[escaped])
        return bits

    def log2_cost(self, symbols: NDArray[np.int64], table_index: NDArray[np.int64]) -> float:
        """Return the sum of `costs`."""
        return float(self.costs(symbols, table_index).sum())

    def to_arrays(self) -> dict[str, NDArray[np.uint16]]:
        """Pack for a bundle: `radii` `[count]`, and `frequencies` of all tables in a row."""
        return {
            "radii": self.radius.astype(np.uint16),
            "frequencies": np.concatenate(self._frequencies).astype(np.uint16),
        }

    @classmethod
    def from_arrays(cls, radii: NDArray[np.uint16], frequencies: NDArray[np.uint16]) -> FrequencyTables:
        """Unpack the arrays of `to_arrays`; raise BundleError if their lengths disagree."""
        lengths = 2 * radii.astype(np.int64) + 2
        if lengths.sum() != len(frequencies):
            raise BundleError("the frequency tables are cut short; the bundle is damaged, install it again")
        return cls(radii.astype(np.int64), np.split(frequencies.astype(np.int64), np.cumsum(lengths)[:-1]))


def gaussian_tables(sigmas: NDArray[np.float64]) -> FrequencyTables:
    """Make discretised Gaussians of the given standard deviations, in quantiser steps.

    They are for making a bundle, never for reading files.
    """
    return gaussian_mixture_tables(sigmas, 0.0)


def gaussian_mixture_tables(sigmas: NDArray[np.float64], spread: float) -> FrequencyTables:
    """Make tables for scales that are known roughly, as `gaussian_tables`.

    The logarithm of the scale has a Gaussian error of deviation `spread`; the expected absolute value stays that of
    the given scale. Three-point Gauss-Hermite quadrature over the logarithm.
    """
    radius = np.minimum(np.maximum(np.ceil(RADIUS_SIGMAS * sigmas), 1), RADIUS_LIMIT).astype(np.int64)
    nodes = ((-math.sqrt(3), 1 / 6), (0.0, 2 / 3), (math.sqrt(3), 1 / 6)) if spread else ((0.0, 1.0),)
    frequencies = []
    for sigma, reach in zip(sigmas, radius, strict=True):
        edges = (np.arange(-reach, reach + 2) - 0.5) / math.sqrt(2)
        inside = np.zeros(2 * reach + 1)
        for node, weight in nodes:
            own = sigma * math.exp(spread * node - spread**2 / 2)
            inside += weight * np.diff([0.5 * math.erfc(-edge / own) for edge in edges])
        frequencies.append(_whole(np.append(inside, max(1 - inside.sum(), 0.0))))
    return FrequencyTables(radius, frequencies)


def blended_tables(
    base: FrequencyTables, counts: Sequence[NDArray[np.float64]], confidence: float = 2_000.0
) -> FrequencyTables:
    """Move `base` towards observed `counts` `[2 * radius + 2]` each, made symmetric.

    `base` counts as `confidence` observations, so that rarely seen tables hardly change.
    """
    frequencies = []
    for index, seen in enumerate(counts):
        folded = seen.astype(np.float64).copy()
        folded[:-1] = (folded[:-1] + folded[-2::-1]) / 2
        frequencies.append(_whole(folded + confidence * (base.frequencies(index) - 1) / TOTAL))
    return FrequencyTables(base.radius, frequencies)


def _whole(weights: NDArray[np.float64]) -> NDArray[np.int64]:
    """Round weights to integers of at least 1 that add up to 2**16.

    The largest remainders are rounded up.
    """
    share = weights / weights.sum() * (TOTAL - len(weights))
    whole = np.floor(share).astype(np.int64)
    missing = TOTAL - len(weights) - whole.sum()
    whole[np.argsort(whole - share, kind="stable")[:missing]] += 1
    return whole + 1
