"""Walk over an image's latent grid in blocks of 64x64, and the ends of the walk.

The ends are encoder, decoder, estimator and recorder. `walk` alone decides in which order blocks are coded and how
much of others a block sees (today nothing).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdcodec import tiling
from sdcodec.constants import MEAN_ONE
from sdcodec.container import BLOCK_LATENTS, Container, latent_grid
from sdcodec.model import Model
from sdcodec.priors.protocol import Prior, SymbolSource
from sdcodec.priors.rounding import PLAIN, Rounding
from sdcodec.priors.sources import Coder, CostEstimator, Decoder, Recorder, SymbolQuantiser

BLOCKS_AT_ONCE = 8

Source = TypeVar("Source", bound=SymbolSource)
Quantising = TypeVar("Quantising", bound=SymbolQuantiser)


@dataclass(frozen=True)
class Block:
    """A block of one image of a batch, with its rows and columns in latents.

    `index` counts the blocks of the image in raster order.
    """

    item: int
    index: int
    rows: slice
    columns: slice

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in latents."""
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start


class End(Protocol[Source]):
    """An end of the walk: it opens symbol sources for blocks, and takes the results."""

    def open(self, blocks: Sequence[Block]) -> Source:
        """Return the symbol source of these blocks, a batch of one shape."""
        ...

    def close(self, blocks: Sequence[Block], source: Source, values: Tensor) -> None:
        """Take the dequantised symbols of the blocks, int64 `[blocks, C, h, w]`.

        They are in 1/16 of a quantiser step.
        """
        ...


def walk(prior: Prior, shape: tuple[int, int, int], quality_index: int, end: End[Source]) -> None:
    """Walk over the latent grids of images of one size, from block to block.

    `shape` is (images, h, w).
    """
    for blocks in _batches(*shape):
        source = end.open(blocks)
        values = prior.walk((len(blocks), *blocks[0].shape), quality_index, source)
        end.close(blocks, source, values)


def _batches(items: int, height: int, width: int) -> Iterator[list[Block]]:
    """Yield blocks of one shape, a few at a time."""
    places = list(tiling.blocks(height, width, BLOCK_LATENTS))
    shapes = [(rows.stop - rows.start, columns.stop - columns.start) for rows, columns in places]
    for alike in tiling.alike(shapes):
        blocks = [Block(item, index, *places[index]) for index in alike for item in range(items)]
        for start in range(0, len(blocks), BLOCKS_AT_ONCE):
            yield blocks[start : start + BLOCKS_AT_ONCE]


# Encoder


@dataclass(frozen=True)
class CodedLatents:
    """An image's entropy-coded blocks in raster order.

    `squared_error` `[C]` is the mean squared error of its latents, if it is measured.
    """

    blocks: tuple[bytes, ...]
    squared_error: Tensor | None


def code(model: Model, latents: Tensor, quality_index: int, rounding: Rounding) -> list[CodedLatents]:
    """Code the latents of each image, `[B, C, h, w]`."""
    end = _Encoder(model, latents, quality_index, rounding)
    walk(model.prior, _shape(latents), quality_index, end)
    return end.results()


def estimated_bytes(model: Model, latents: Tensor, quality_index: int, rounding: Rounding) -> float:
    """Return the ideal code length of one image's latents `[C, h, w]`.

    Real blocks are about two bytes longer.
    """
    end = _Estimator(model, model.quantiser.scaled(latents[None], quality_index), quality_index, rounding)
    walk(model.prior, _shape(latents[None]), quality_index, end)
    return end.bits / 8 + end.blocks * (2 if end.blocks > 1 else 1)


@dataclass(frozen=True)
class Recorded:
    """An image's latents as the decoder will see them, with the prior's expectations.

    `decoded` and `means` float32 `[C, h, w]` in quantiser steps; `indices` of tables, int64 `[C, h, w]`.
    """

    decoded: Tensor
    means: Tensor
    indices: Tensor
    bits: float


def record(model: Model, scaled_latents: Tensor, quality_index: int) -> Recorded:
    """Quantise one image's latents `[C, h, w]`, in quantiser steps.

    It is the encoder's quantisation at effort 0.
    """
    end = _Recorder(model, scaled_latents[None], quality_index)
    walk(model.prior, _shape(scaled_latents[None]), quality_index, end)
    return Recorded(end.decoded, end.means, end.indices, end.bits)


class _QuantisingEnd(End[Quantising]):
    """An end that quantises latents `[B, C, h, w]`, in quantiser steps."""

    kind: type[Quantising]

    def __init__(self, model: Model, scaled_latents: Tensor, quality_index: int, rounding: Rounding = PLAIN) -> None:
        self.model, self.scaled_latents = model, scaled_latents
        self.quality_index, self.rounding = quality_index, rounding

    def open(self, blocks: Sequence[Block]) -> Quantising:
        """See End."""
        prior = self.model.prior
        scaled = torch.stack([self.scaled_latents[block.item][:, block.rows, block.columns] for block in blocks])
        hyper = prior.hyper_latents(scaled, self.quality_index)
        return self.kind(scaled, hyper, prior.tables, self.rounding)


class _Encoder(_QuantisingEnd[Coder]):
    kind = Coder

    def __init__(self, model: Model, latents: Tensor, quality_index: int, rounding: Rounding) -> None:
        super().__init__(model, model.quantiser.scaled(latents, quality_index), quality_index, rounding)
        self._coded: list[dict[int, bytes]] = [{} for _ in latents]
        self._squares = torch.zeros(latents.shape[:2], dtype=torch.float64) if model.measures_error else None

    def close(self, blocks: Sequence[Block], source: Coder, values: Tensor) -> None:
        """See End."""
        for block, data in zip(blocks, source.finish(), strict=True):
            self._coded[block.item][block.index] = data
        if self._squares is not None:
            # Measured in the decoder's latents: with rounding against without.
            error = self.model.quantiser.unscaled(values.float() / MEAN_ONE - source.scaled_latents, self.quality_index)
            for block, own in zip(blocks, error.square_().sum((2, 3)).cpu(), strict=True):
                self._squares[block.item] += own

    def results(self) -> list[CodedLatents]:
        """Return the coded blocks of each image."""
        count = self.scaled_latents.shape[2] * self.scaled_latents.shape[3]
        return [
            CodedLatents(
                tuple(own[index] for index in sorted(own)),
                None if self._squares is None else self._squares[item] / count,
            )
            for item, own in enumerate(self._coded)
        ]


class _Estimator(_QuantisingEnd[CostEstimator]):
    kind = CostEstimator
    bits, blocks = 0.0, 0

    def close(self, blocks: Sequence[Block], source: CostEstimator, values: Tensor) -> None:
        """See End."""
        self.bits += source.bits
        self.blocks += len(blocks)


class _Recorder(_QuantisingEnd[Recorder]):
    """Records one image."""

    kind = Recorder

    def __init__(self, model: Model, scaled_latents: Tensor, quality_index: int) -> None:
        super().__init__(model, scaled_latents, quality_index)
        self.decoded, self.means = torch.empty_like(scaled_latents[0]), torch.empty_like(scaled_latents[0])
        self.indices = torch.empty_like(scaled_latents[0], dtype=torch.int64)
        self.bits = 0.0

    def close(self, blocks: Sequence[Block], source: Recorder, values: Tensor) -> None:
        """See End."""
        means, indices = source.means.view(values.shape), source.indices.view(values.shape)
        for place, block in enumerate(blocks):
            self.decoded[:, block.rows, block.columns] = values[place].float() / MEAN_ONE
            self.means[:, block.rows, block.columns] = means[place]
            self.indices[:, block.rows, block.columns] = indices[place]
        self.bits += source.bits


# Decoder


def decode(model: Model, containers: Sequence[Container]) -> list[NDArray[np.int32]]:
    """Return the integers of containers of one size and quality, each `[C, h, w]`.

    They are in 1/16 of a quantiser step. Raises FormatError for damaged blocks.
    """
    header = containers[0].header
    height, width = latent_grid(header.width, header.height, header.factor)
    end = _Decoder(model, containers, (height, width))
    walk(model.prior, (len(containers), height, width), header.quality_index, end)
    return end.values


class _Decoder(End[Decoder]):
    def __init__(self, model: Model, containers: Sequence[Container], size: tuple[int, int]) -> None:
        self.model, self.containers = model, containers
        self.values = [np.empty((model.autoencoder.channels, *size), np.int32) for _ in containers]

    def open(self, blocks: Sequence[Block]) -> Decoder:
        """See End."""
        coded = [self.containers[block.item].blocks[block.index] for block in blocks]
        return Decoder(coded, self.model.prior.tables, self.model.device)

    def close(self, blocks: Sequence[Block], source: Decoder, values: Tensor) -> None:
        """See End."""
        for block, own in zip(blocks, values.to(torch.int32).cpu().numpy(), strict=True):
            self.values[block.item][:, block.rows, block.columns] = own


def _shape(latents: Tensor) -> tuple[int, int, int]:
    return latents.shape[0], latents.shape[2], latents.shape[3]
