"""What codec.py asks of a prior, and what a prior asks of whoever supplies or takes the symbols."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from sdcodec.coding.tables import FrequencyTables


class SymbolSource(Protocol):
    """The other side of a walk: a quantiser while encoding, an entropy decoder while decoding."""

    def hyper(self, positions: Tensor, means: Tensor, tables: Tensor) -> Tensor:
        """Symbols of side information, int64 `[B, N]`, for means in 1/16 of a step and table indices, both int64 `[B, N]`.

        `positions` `[N]` are indices into all the numbers of it that an item has, flattened.
        """
        ...

    def latents(self, positions: Tensor, means: Tensor, tables: Tensor) -> Tensor:
        """Symbols of one pass, int64 `[B, N]`; `positions` `[N]` are indices into `[C, h, w]`, flattened."""
        ...


class Prior(Protocol):
    """Integers ↔ probabilities. `walk` is the same code for encoding and decoding, so the two cannot part ways."""

    tables: FrequencyTables
    channels: int

    def hyper_latents(self, scaled_latents: Tensor, quality_index: int) -> Tensor:
        """Encoder's side: latents in steps `[B, C, h, w]` → side information in steps, not rounded.

        `[B, Z, h/4, w/4]` hyper-latents, or `[B, P]` parameters: as many numbers an item as `walk` asks `source.hyper` for.
        """
        ...

    def walk(self, shape: tuple[int, int, int], quality_index: int, source: SymbolSource) -> Tensor:
        """Goes through the passes for `shape` = (B, h, w) latents, asking `source` for symbols.

        Returns the dequantised symbols in 1/16 of a step, int64 `[B, C, h, w]`.
        """
        ...
