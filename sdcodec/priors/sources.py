"""Symbol sources of a prior's walk: quantisers and the entropy decoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdcodec.coding.rangecoder import SymbolDecoder, SymbolEncoder
from sdcodec.coding.tables import FrequencyTables
from sdcodec.constants import MEAN_ONE
from sdcodec.priors.blocks import Block, cut, paste
from sdcodec.priors.rounding import PLAIN, Rounding


class SymbolQuantiser(ABC):
    """A source that rounds given latents to symbols around the prior's means."""

    def __init__(
        self,
        scaled_latents: Tensor,
        hyper: Sequence[Tensor],
        tables: FrequencyTables,
        rounding: Rounding = PLAIN,
    ) -> None:
        """Take the values to round.

        scaled_latents: `[B, C, h, w]`, float, in quantiser steps.
        hyper: side information in its own steps, as `Prior.hyper_latents` returns it.
        """
        self.scaled_latents = scaled_latents
        self._hyper, self._tables, self._rounding = hyper, tables, rounding
        self._coded: Counter[tuple[int, int]] = Counter()  # symbols of each block

    def hyper(self, blocks: Sequence[Block], positions: Tensor, means: Tensor, tables: Tensor) -> Tensor:
        """See SymbolSource."""
        values = torch.stack([self._hyper[block.index][block.item] for block in blocks])
        return self._rounded(blocks, values[:, positions], means, tables, PLAIN)

    def latents(self, blocks: Sequence[Block], positions: Tensor, means: Tensor, tables: Tensor) -> Tensor:
        """See SymbolSource."""
        values = cut(self.scaled_latents, blocks).flatten(1)
        self._coded.update({block.key: len(positions) for block in blocks})
        return self._rounded(blocks, values[:, positions], means, tables, self._rounding, values.shape[1])

    def _rounded(
        self, blocks: Sequence[Block], values: Tensor, means: Tensor, tables: Tensor, rounding: Rounding, count: int = 1
    ) -> Tensor:
        """Round; `count` is the number of latents in a block."""
        away = values - means.float() / MEAN_ONE
        symbols = rounding.symbols(away, tables, self._tables, self._coded[blocks[0].key] / count)
        self.take(blocks, symbols.cpu().numpy(), tables.cpu().numpy())
        return symbols

    @abstractmethod
    def take(self, blocks: Sequence[Block], symbols: NDArray[np.int64], tables: NDArray[np.int64]) -> None:
        """Take symbols and table indices `[B, N]` of blocks in coding order."""


class CostEstimator(SymbolQuantiser):
    """Sums ideal code lengths in `bits`, for rate control."""

    bits = 0.0

    def take(self, blocks: Sequence[Block], symbols: NDArray[np.int64], tables: NDArray[np.int64]) -> None:
        """See SymbolQuantiser."""
        self.bits += self._tables.log2_cost(symbols.ravel(), tables.ravel())


class Recorder(CostEstimator):
    """Records the prior's expectations of all latents, `[B, C, h, w]`.

    `means` are float32 in quantiser steps, `indices` those of tables, int64.
    """

    def __init__(
        self,
        scaled_latents: Tensor,
        hyper: Sequence[Tensor],
        tables: FrequencyTables,
        rounding: Rounding = PLAIN,
    ) -> None:
        super().__init__(scaled_latents, hyper, tables, rounding)
        self.means = torch.zeros_like(scaled_latents, dtype=torch.float32)
        self.indices = torch.zeros_like(scaled_latents, dtype=torch.int64)

    def latents(self, blocks: Sequence[Block], positions: Tensor, means: Tensor, tables: Tensor) -> Tensor:
        """See SymbolSource."""
        for plane, values in ((self.means, means.float() / MEAN_ONE), (self.indices, tables)):
            parts = cut(plane, blocks)
            parts.view(len(blocks), -1)[:, positions] = values
            paste(plane, blocks, parts)
        return super().latents(blocks, positions, means, tables)


class Coder(SymbolQuantiser):
    """Codes each block to bytes of its own."""

    def __init__(
        self,
        scaled_latents: Tensor,
        hyper: Sequence[Tensor],
        tables: FrequencyTables,
        rounding: Rounding = PLAIN,
    ) -> None:
        super().__init__(scaled_latents, hyper, tables, rounding)
        self._encoders = [[SymbolEncoder(tables) for _ in hyper] for _ in scaled_latents]

    def take(self, blocks: Sequence[Block], symbols: NDArray[np.int64], tables: NDArray[np.int64]) -> None:
        """See SymbolQuantiser."""
        for block, own_symbols, own_tables in zip(blocks, symbols, tables, strict=True):
            self._encoders[block.item][block.index].encode(own_symbols, own_tables)

    def finish(self) -> list[tuple[bytes, ...]]:
        """Return the bytes of each image's blocks, in raster order."""
        return [tuple(encoder.finish() for encoder in own) for own in self._encoders]


class Decoder:
    """Decodes the symbols of each image's blocks from their bytes.

    Damaged bytes raise FormatError.
    """

    def __init__(self, images: Sequence[Sequence[bytes | None]], tables: FrequencyTables, device: torch.device) -> None:
        """Take the bytes of each image's blocks, in raster order.

        None stands for a lost one, whose symbols are all 0.
        """
        self._decoders = [
            [None if block is None else SymbolDecoder(block, tables) for block in blocks] for blocks in images
        ]
        self._device = device

    def hyper(self, blocks: Sequence[Block], positions: Tensor, means: Tensor, tables: Tensor) -> Tensor:
        """See SymbolSource."""
        indices = tables.cpu().numpy()
        decoders = [self._decoders[block.item][block.index] for block in blocks]
        symbols = [
            np.zeros_like(own) if decoder is None else decoder.decode(own)
            for decoder, own in zip(decoders, indices, strict=True)
        ]
        return torch.from_numpy(np.stack(symbols)).to(self._device)

    def latents(self, blocks: Sequence[Block], positions: Tensor, means: Tensor, tables: Tensor) -> Tensor:
        """See SymbolSource."""
        return self.hyper(blocks, positions, means, tables)
