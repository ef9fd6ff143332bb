"""The mode "palette": latents as a palette of vectors in chunk `P` of a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdcodec import ratecontrol
from sdcodec.container import Container, latent_grid
from sdcodec.denoisers import error_levels
from sdcodec.encoded import Encoded
from sdcodec.model import Model
from sdcodec.modes.protocol import Request, Source
from sdcodec.palette.vectors import MIDDLE, MOST_COLOURS, VALUE_BITS, Palettised, palettised, quality_of_error


class PaletteMode:
    """See Mode."""

    def encode(self, model: Model, source: Source, envelope: Container, request: Request) -> Encoded:
        """Encode with 256 colours, or with as many as the budget allows."""
        scaled = model.quantiser.scaled(source.latents, MIDDLE).cpu().numpy()
        files = _Files(model, scaled, envelope)
        data = files.data(MOST_COLOURS)
        if request.budget is not None and len(data) > request.budget:
            data = ratecontrol.most_within(request.budget, MOST_COLOURS - 1, files.data)
        return Encoded(data, source.width, source.height, Container.from_bytes(data).header.quality_index / 2)

    def decode(self, model: Model, containers: Sequence[Container]) -> Tensor:
        """Return the decoder's latents `[B, C, h, w]`."""
        latents = [
            model.quantiser.dequantised(torch.from_numpy(self.integers(model, own)), MIDDLE, VALUE_BITS)
            for own in containers
        ]
        return torch.stack(latents)

    def integers(self, model: Model, container: Container) -> NDArray[np.int32]:
        """Return `Palettised.values` of a file."""
        header = container.header
        height, width = latent_grid(header.width, header.height, header.factor)
        assert container.palette is not None
        return Palettised.from_bytes(container.palette, model.autoencoder.channels, height, width).values()


@dataclass(frozen=True)
class _Files:
    """Files of one image for numbers of colours.

    Its latents `[C, h, w]` are in quantiser steps at MIDDLE.
    """

    model: Model
    scaled_latents: NDArray[np.float32]
    envelope: Container

    def data(self, colours: int) -> bytes:
        """Return the file's bytes."""
        chosen = palettised(self.scaled_latents, colours)
        error = torch.from_numpy(chosen.values() / (1 << VALUE_BITS) - self.scaled_latents).square_().mean((1, 2))
        quantiser = self.model.quantiser
        header = replace(self.envelope.header, quality_index=quality_of_error(float(error.mean()), quantiser.gain))
        deviations = None
        if self.model.measures_error:
            deviations = error_levels.pack_deviations(error * quantiser.inverse_gain[MIDDLE].cpu().square())
        container = replace(self.envelope, header=header, palette=chosen.to_bytes(), deviations=deviations)
        return container.to_bytes()
