"""Protocols of a prior, and of the sources that it asks for symbols."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from sdcodec.coding.tables import FrequencyTables
from sdcodec.priors.blocks import Block


class SymbolSource(Protocol):
    """A source of symbols: a quantiser of the encoder, or an entropy decoder.

    Both methods are asked for B blocks of one shape. Means, in 1/16 of a step, and table indices are int64 `[B, N]`.
    """

    def hyper(self, blocks: Sequence[Block], positions: Tensor, means: Tensor, tables: Tensor) -> Tensor:
        """Return symbols of side information, int64 `[B, N]`.

        `positions` `[N]` are flat indices into a block's side information.
        """
        ...

    def latents(self, blocks: Sequence[Block], positions: Tensor, means: Tensor, tables: Tensor) -> Tensor:
        """Return symbols of one pass, int64 `[B, N]`.

        `positions` `[N]` are flat indices into a block's `[C, h, w]`.
        """
        ...


class Prior(Protocol):
    """Integers ↔ probabilities.

    `walk` is the same code for encoding and decoding, so that both agree. Tables of a block follow from its own symbols,
    so that it can be decoded alone; means follow from the whole grid, so that blocks have no seams.
    """

    tables: FrequencyTables
    channels: int

    def hyper_latents(self, scaled_latents: Tensor, quality_index: int) -> list[Tensor]:
        """Return the side information of scaled latents `[B, C, h, w]`, not rounded.

        For each block in raster order, float `[B, P]`: as many numbers as `walk` asks `source.hyper` for.
        """
        ...

    def walk(self, shape: tuple[int, int, int], quality_index: int, source: SymbolSource) -> Tensor:
        """Walk through the passes over the grids of B images, asking for symbols.

        `shape` is (B, h, w) in latents, h and w multiples of 4. Returns the dequantised symbols in 1/16 of a quantiser
        step, int32 `[B, C, h, w]`.
        """
        ...
