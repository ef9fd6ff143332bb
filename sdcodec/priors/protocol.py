"""Protocols of a prior, and of the sources that it asks for symbols."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from sdcodec.coding.tables import FrequencyTables


class SymbolSource(Protocol):
    """A source of symbols: a quantiser of the encoder, or an entropy decoder."""

    def hyper(self, positions: Tensor, means: Tensor, tables: Tensor) -> Tensor:
        """Return symbols of side information, int64 `[B, N]`.

        Means in 1/16 of a step and table indices are int64 `[B, N]`; `positions` `[N]` are flat indices into an
        item's side information.
        """
        ...

    def latents(self, positions: Tensor, means: Tensor, tables: Tensor) -> Tensor:
        """Return symbols of one pass, int64 `[B, N]`.

        `positions` `[N]` are flat indices into `[C, h, w]`.
        """
        ...


class Prior(Protocol):
    """Integers ↔ probabilities.

    `walk` is the same code for encoding and decoding, so that both agree.
    """

    tables: FrequencyTables
    channels: int

    def hyper_latents(self, scaled_latents: Tensor, quality_index: int) -> Tensor:
        """Return the side information of scaled latents `[B, C, h, w]`, not rounded.

        It is `[B, Z, h/4, w/4]` hyper-latents, or `[B, P]` parameters: as many numbers per item as `walk` asks
        `source.hyper` for.
        """
        ...

    def walk(self, shape: tuple[int, int, int], quality_index: int, source: SymbolSource) -> Tensor:
        """Walk through the passes for `shape` = (B, h, w) latents, asking for symbols.

        Returns the dequantised symbols in 1/16 of a quantiser step, int64 `[B, C, h, w]`.
        """
        ...
