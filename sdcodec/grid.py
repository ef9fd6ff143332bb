"""An image's latent grid: coded, estimated, recorded and decoded.

All four are one walk of the prior with another source of symbols.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sdcodec import tiling
from sdcodec.concealment import conceal
from sdcodec.constants import BLOCK_LATENTS, MEAN_ONE
from sdcodec.container import Container, latent_grid
from sdcodec.model import Model
from sdcodec.priors.rounding import Rounding
from sdcodec.priors.sources import Coder, CostEstimator, Decoder, Recorder


@dataclass(frozen=True)
class CodedLatents:
    """An image's entropy-coded blocks in raster order.

    `values` int32 `[C, h, w]` are the integers that a decoder will find; `squared_error` `[C]` is the mean squared error
    of its latents, if it is measured.
    """

    blocks: tuple[bytes, ...]
    values: Tensor
    squared_error: Tensor | None


def code(model: Model, latents: Tensor, quality_index: int, rounding: Rounding) -> list[CodedLatents]:
    """Code the latents of each image, `[B, C, h, w]`."""
    scaled = model.quantiser.scaled(latents, quality_index)
    coder = Coder(scaled, model.prior.hyper_latents(scaled, quality_index), model.prior.tables, rounding)
    values = model.prior.walk(_shape(latents), quality_index, coder)
    errors: Sequence[Tensor | None] = [None] * len(values)
    if model.measures_error:
        # Measured in the decoder's latents: with rounding against without.
        wrong = model.quantiser.unscaled(values.float().div_(MEAN_ONE).sub_(scaled), quality_index)
        errors = list(wrong.square_().double().mean((2, 3)).cpu())
    return [CodedLatents(*each) for each in zip(coder.finish(), values, errors, strict=True)]


def estimated_bytes(model: Model, latents: Tensor, quality_index: int, rounding: Rounding) -> float:
    """Return the ideal code length of one image's latents `[C, h, w]`.

    Real blocks are about two bytes longer.
    """
    scaled = model.quantiser.scaled(latents[None], quality_index)
    hyper = model.prior.hyper_latents(scaled, quality_index)
    estimator = CostEstimator(scaled, hyper, model.prior.tables, rounding)
    model.prior.walk(_shape(scaled), quality_index, estimator)
    return estimator.bits / 8 + len(hyper) * (2 if len(hyper) > 1 else 1)


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
    scaled = scaled_latents[None]
    recorder = Recorder(scaled, model.prior.hyper_latents(scaled, quality_index), model.prior.tables)
    values = model.prior.walk(_shape(scaled), quality_index, recorder)
    return Recorded(values[0].float() / MEAN_ONE, recorder.means[0], recorder.indices[0], recorder.bits)


def decode(model: Model, containers: Sequence[Container]) -> list[NDArray[np.int32]]:
    """Return the integers of containers of one size and quality, each `[C, h, w]`.

    They are in 1/16 of a quantiser step; those of lost blocks are filled from around them. Raises FormatError for
    damaged blocks.
    """
    header = containers[0].header
    height, width = latent_grid(header.width, header.height, header.factor)
    images = [
        [None if index in container.damaged else block for index, block in enumerate(container.blocks)]
        for container in containers
    ]
    decoder = Decoder(images, model.prior.tables, model.device)
    values = model.prior.walk((len(containers), height, width), header.quality_index, decoder).cpu()
    for own, container in zip(values, containers, strict=True):
        if container.damaged:
            places = list(tiling.blocks(height, width, BLOCK_LATENTS))
            conceal(own, [places[index] for index in container.damaged])
    return list(values.numpy())


def _shape(latents: Tensor) -> tuple[int, int, int]:
    return latents.shape[0], latents.shape[2], latents.shape[3]
