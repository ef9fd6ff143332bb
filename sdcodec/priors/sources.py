"""Who stands on the other side of a prior's walk: a quantiser that counts or codes, or an entropy decoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdcodec.coding.rangecoder import SymbolDecoder, SymbolEncoder
from sdcodec.coding.tables import FrequencyTables
from sdcodec.constants import MEAN_BITS
from sdcodec.priors.rounding import PLAIN, Rounding


class Quantiser(ABC):
    """Rounds given latents to symbols around the prior's means, and hands on what it has rounded."""

    def __init__(self, steps: Tensor, hyper: Tensor, tables: FrequencyTables, rounding: Rounding = PLAIN) -> None:
        """`steps` `[B, C, h, w]` latents and `hyper` side information, `[B, Z, h/4, w/4]` or `[B, P]`, both float in steps."""
        self._steps, self._hyper = steps.flatten(1), hyper.flatten(1)
        self._tables, self._rounding = tables, rounding
        self._coded = 0

    def hyper(self, positions: Tensor, means: Tensor, tables: Tensor) -> Tensor:
        """See SymbolSource."""
        return self._rounded(self._hyper[:, positions], means, tables, PLAIN)

    def latents(self, positions: Tensor, means: Tensor, tables: Tensor) -> Tensor:
        """See SymbolSource."""
        self._coded += positions.numel()
        return self._rounded(self._steps[:, positions], means, tables, self._rounding)

    def _rounded(self, values: Tensor, means: Tensor, tables: Tensor, rounding: Rounding) -> Tensor:
        away = values - means.float() / (1 << MEAN_BITS)
        symbols = rounding.symbols(away, tables, self._tables, self._coded / self._steps.shape[1])
        self.take(symbols.cpu().numpy(), tables.cpu().numpy())
        return symbols

    @abstractmethod
    def take(self, symbols: NDArray[np.int64], tables: NDArray[np.int64]) -> None:
        """Symbols and table indices `[B, N]` in the order of coding."""


class CostEstimator(Quantiser):
    """Adds up ideal code lengths: what rate control asks for."""

    def __init__(self, steps: Tensor, hyper: Tensor, tables: FrequencyTables, rounding: Rounding = PLAIN) -> None:
        super().__init__(steps, hyper, tables, rounding)
        self.bits = 0.0

    def take(self, symbols: NDArray[np.int64], tables: NDArray[np.int64]) -> None:
        self.bits += self._tables.log2_cost(symbols.ravel(), tables.ravel())


class Recorder(CostEstimator):
    """Also keeps what the prior expected of every latent: `means` in steps, float32, and `indices` of tables, `[B, C*h*w]`."""

    def __init__(self, steps: Tensor, hyper: Tensor, tables: FrequencyTables, rounding: Rounding = PLAIN) -> None:
        super().__init__(steps, hyper, tables, rounding)
        self.means = torch.zeros_like(self._steps)
        self.indices = torch.zeros_like(self._steps, dtype=torch.int64)

    def latents(self, positions: Tensor, means: Tensor, tables: Tensor) -> Tensor:
        """See SymbolSource."""
        self.means[:, positions] = means.float() / (1 << MEAN_BITS)
        self.indices[:, positions] = tables
        return super().latents(positions, means, tables)


class Coder(Quantiser):
    """Codes each item of the batch into bytes of its own."""

    def __init__(self, steps: Tensor, hyper: Tensor, tables: FrequencyTables, rounding: Rounding = PLAIN) -> None:
        super().__init__(steps, hyper, tables, rounding)
        self._encoders = [SymbolEncoder(tables) for _ in range(steps.shape[0])]

    def take(self, symbols: NDArray[np.int64], tables: NDArray[np.int64]) -> None:
        for encoder, own_symbols, own_tables in zip(self._encoders, symbols, tables, strict=True):
            encoder.encode(own_symbols, own_tables)

    def finish(self) -> list[bytes]:
        """The bytes of each item."""
        return [encoder.finish() for encoder in self._encoders]


class Decoder:
    """Reads the symbols of each item of the batch from its bytes. Raises FormatError for damaged ones."""

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
