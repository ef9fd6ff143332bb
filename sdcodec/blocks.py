"""Latents as independently coded blocks of 64x64: their bytes, an estimate of how many, and the integers in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdcodec import tiling
from sdcodec.constants import MEAN_BITS
from sdcodec.container import BLOCK_LATENTS, Container, latent_grid
from sdcodec.model import Model
from sdcodec.priors.rounding import Rounding
from sdcodec.priors.sources import Coder, CostEstimator, Decoder

BLOCKS_AT_ONCE = 8


@dataclass(frozen=True)
class CodedLatents:
    """A picture's entropy-coded blocks in raster order; where it was measured, the mean squared error of its latents `[C]`."""

    blocks: tuple[bytes, ...]
    squared_error: Tensor | None


def code(
    model: Model, latents: Tensor, quality_index: int, rounding: Rounding, measure_error: bool = False
) -> list[CodedLatents]:
    """Latents `[B, C, h, w]` → each item coded at a quality in half steps."""
    places = list(tiling.blocks(latents.shape[2], latents.shape[3], BLOCK_LATENTS))
    coded: dict[tuple[int, int], bytes] = {}
    squares = torch.zeros(latents.shape[:2], dtype=torch.float64) if measure_error else None
    for chunk in _chunks_of_one_shape(places, latents.shape[0]):
        steps = _in_steps(model, latents, places, chunk, quality_index)
        coder = Coder(steps, model.prior.hyper_latents(steps, quality_index), model.prior.tables, rounding)
        values = model.prior.walk((steps.shape[0], *steps.shape[2:]), quality_index, coder)
        coded |= dict(zip(chunk, coder.finish(), strict=True))
        if squares is None:
            continue
        # In the latents that a decoder sees: what it is given against what it would be given without rounding.
        error = (values.float() / (1 << MEAN_BITS) - steps) * model.quantiser.inverse_gain[quality_index][:, None, None]
        for (item, _), own in zip(chunk, error.square_().sum((2, 3)).cpu(), strict=True):
            squares[item] += own
    count = latents.shape[2] * latents.shape[3]
    return [
        CodedLatents(
            tuple(coded[item, place] for place in range(len(places))),
            None if squares is None else squares[item] / count,
        )
        for item in range(latents.shape[0])
    ]


def estimated_bytes(model: Model, latents: Tensor, quality_index: int, rounding: Rounding) -> float:
    """Ideal code length of one picture's latents `[C, h, w]`; real blocks are about two bytes longer."""
    places = list(tiling.blocks(latents.shape[1], latents.shape[2], BLOCK_LATENTS))
    total = 0.0
    for chunk in _chunks_of_one_shape(places, 1):
        steps = _in_steps(model, latents[None], places, chunk, quality_index)
        estimator = CostEstimator(steps, model.prior.hyper_latents(steps, quality_index), model.prior.tables, rounding)
        model.prior.walk((steps.shape[0], *steps.shape[2:]), quality_index, estimator)
        total += estimator.bits / 8 + len(chunk) * (2 if len(places) > 1 else 1)
    return total


def decode(model: Model, containers: Sequence[Container], device: torch.device) -> list[NDArray[np.int32]]:
    """Containers of one size and quality → the integers of each, `[C, h, w]`, in 1/16 of a step.

    Raises FormatError for damaged blocks.
    """
    header = containers[0].header
    height, width = latent_grid(header.width, header.height, header.factor)
    places = list(tiling.blocks(height, width, BLOCK_LATENTS))
    symbols = [np.empty((model.autoencoder.channels, height, width), np.int32) for _ in containers]
    for chunk in _chunks_of_one_shape(places, len(containers)):
        rows, columns = places[chunk[0][1]]
        source = Decoder([containers[item].blocks[place] for item, place in chunk], model.prior.tables, device)
        shape = (len(chunk), rows.stop - rows.start, columns.stop - columns.start)
        decoded = model.prior.walk(shape, header.quality_index, source).to(torch.int32).cpu().numpy()
        for (item, place), values in zip(chunk, decoded, strict=True):
            symbols[item][:, places[place][0], places[place][1]] = values
    return symbols


def _in_steps(
    model: Model, latents: Tensor, places: list[tuple[slice, slice]], chunk: list[tuple[int, int]], quality_index: int
) -> Tensor:
    """The chunk's blocks, in steps of the quality's quantiser."""
    chosen = torch.stack([latents[item][:, places[place][0], places[place][1]] for item, place in chunk])
    return chosen * model.quantiser.gain[quality_index][:, None, None]


def _chunks_of_one_shape(places: list[tuple[slice, slice]], items: int) -> Iterator[list[tuple[int, int]]]:
    """(item, place) pairs whose blocks have one shape, a few at a time."""
    shapes = [(rows.stop - rows.start, columns.stop - columns.start) for rows, columns in places]
    for group in tiling.alike(shapes):
        pairs = [(item, place) for place in group for item in range(items)]
        for start in range(0, len(pairs), BLOCKS_AT_ONCE):
            yield pairs[start : start + BLOCKS_AT_ONCE]
