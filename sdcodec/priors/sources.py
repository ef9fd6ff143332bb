"""Symbol sources of a prior's walk: quantisers and the entropy decoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdcodec.coding.rangecoder import SymbolDecoder, SymbolEncoder
from sdcodec.coding.tables import FrequencyTables
from sdcodec.constants import MEAN_ONE
from sdcodec.priors.rounding import PLAIN, Rounding


class SymbolQuantiser(ABC):
    """A source that rounds given latents to symbols around the prior's means."""

    def __init__(
        self, scaled_latents: Tensor, hyper: Tensor, tables: FrequencyTables, rounding: Rounding = PLAIN
    ) -> None:
        """Take the values to round.

        scaled_latents: `[B, C, h, w]`, float, in quantiser steps.
        hyper: side information in its own steps, float, `[B, Z, h/4, w/4]` or `[B, P]`.
        """
        self.scaled_latents = scaled_latents
        self._flat, self._hyper = scaled_latents.flatten(1), hyper.flatten(1)
        self._tables, self._rounding = tables, rounding
        self._coded = 0

    def hyper(self, positions: Tensor, means: Tensor, tables: Tensor) -> Tensor:
        """See SymbolSource."""
        return self._rounded(self._hyper[:, positions], means, tables, PLAIN)

    def latents(self, positions: Tensor, means: Tensor, tables: Tensor) -> Tensor:
        """See SymbolSource."""
        self._coded += positions.numel()
        return self._rounded(self._flat[:, positions], means, tables, self._rounding)

    def _rounded(self, values: Tensor, means: Tensor, tables: Tensor, rounding: Rounding) -> Tensor:
        away = values - means.float() / MEAN_ONE
        symbols = rounding.symbols(away, tables, self._tables, self._coded / self._flat.shape[1])
        self.take(symbols.cpu().numpy(), tables.cpu().numpy())
        return symbols

    @abstractmethod
    def take(self, symbols: NDArray[np.int64], tables: NDArray[np.int64]) -> None:
        """Take symbols and table indices `[B, N]` in coding order."""


class CostEstimator(SymbolQuantiser):
    """Sums ideal code lengths in `bits`, for rate control."""

    bits = 0.0

    def take(self, symbols: NDArray[np.int64], tables: NDArray[np.int64]) -> None:
        """See SymbolQuantiser."""
        self.bits += self._tables.log2_cost(symbols.ravel(), tables.ravel())


class Recorder(CostEstimator):
    """Records the prior's expectations of all latents, `[B, C*h*w]`, beside the bits.

    `means` are float32 in quantiser steps, `indices` those of tables.
    """

    def __init__(
        self, scaled_latents: Tensor, hyper: Tensor, tables: FrequencyTables, rounding: Rounding = PLAIN
    ) -> None:
        super().__init__(scaled_latents, hyper, tables, rounding)
        self.means = torch.zeros_like(self._flat)
        self.indices = torch.zeros_like(self._flat, dtype=torch.int64)

    def latents(self, positions: Tensor, means: Tensor, tables: Tensor) -> Tensor:
        """See SymbolSource."""
        self.means[:, positions] = means.float() / MEAN_ONE
        self.indices[:, positions] = tables
        return super().latents(positions, means, tables)


class Coder(SymbolQuantiser):
    """Codes each item of the batch to bytes of its own."""

    def __init__(
        self, scaled_latents: Tensor, hyper: Tensor, tables: FrequencyTables, rounding: Rounding = PLAIN
    ) -> None:
        super().__init__(scaled_latents, hyper, tables, rounding)
        self._encoders = [SymbolEncoder(tables) for _ in range(scaled_latents.shape[0])]

    def take(self, symbols: NDArray[np.int64], tables: NDArray[np.int64]) -> None:
        """See SymbolQuantiser."""
        for encoder, own_symbols, own_tables in zip(self._encoders, symbols, tables, strict=True):
            encoder.encode(own_symbols, own_tables)

    def finish(self) -> list[bytes]:
        """Return the bytes of each item."""
        return [encoder.finish() for encoder in self._encoders]


class Decoder:
    """Decodes the symbols of each item of the batch from its bytes.

    Damaged bytes raise FormatError.
    """

    def __init__(self, blocks: Sequence[bytes], tables: FrequencyTables, device: torch.device) -> None:
        self._decoders = [SymbolDecoder(block, tables) for block in blocks]
        self._device = device

    def hyper(self, positions: Tensor, means: Tensor, tables: Tensor) -> Tensor:
        """See SymbolSource."""
        indices = tables.cpu().numpy()
        symbols = [decoder.decode(own) for decoder, own in zip(self._decoders, indices, strict=True)]
        return torch.from_numpy(np.stack(symbols)).to(self._device)

    def latents(self, positions: Tensor, means: Tensor, tables: Tensor) -> Tensor:
        """See SymbolSource."""
        return self.hyper(positions, means, tables)
