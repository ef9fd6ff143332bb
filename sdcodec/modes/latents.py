"""The mode "latents": quantised latents, entropy-coded in blocks, in chunk `L`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdcodec import grid, ratecontrol
from sdcodec.autoencoders.protocol import DifferentiableAutoencoder
from sdcodec.constants import HIGHEST_QUALITY_INDEX, MEAN_BITS
from sdcodec.container import Container, block_count, most_latent_bytes
from sdcodec.denoisers import error_levels
from sdcodec.encoded import Encoded
from sdcodec.errors import OptionError
from sdcodec.model import Model
from sdcodec.modes.protocol import Request, Source
from sdcodec.ratecontrol import Setting
from sdcodec.rendering import WHOLE, render
from sdcodec.targets import Target


class LatentMode:
    """See Mode."""

    def encode(self, model: Model, source: Source, envelope: Container, request: Request) -> Encoded:
        """Encode at the requested quality, within the budget, or up to the target."""
        search = _Encoding(model, source, envelope, request)
        if request.target is not None:
            return search.reaching(request.target)
        return search.at_quality(request.quality_index) if request.budget is None else search.within(request.budget)

    def encode_batch(
        self, model: Model, sources: Sequence[Source], envelopes: Sequence[Container], request: Request
    ) -> list[Encoded]:
        """Encode images of one size at one quality."""
        quality_index, effort = request.quality_index, request.effort
        refined = [refined_latents(model, source, quality_index, effort.iterations) for source in sources]
        coded = grid.code(model, torch.stack(refined), quality_index, effort.rounding)
        return [Encoded.of(filed(envelope, quality_index, own)) for envelope, own in zip(envelopes, coded, strict=True)]

    def decode(self, model: Model, containers: Sequence[Container]) -> Tensor:
        """Return the decoder's latents `[B, C, h, w]`."""
        quality_index = containers[0].header.quality_index
        latents = [
            model.quantiser.dequantised(torch.from_numpy(own), quality_index, MEAN_BITS)
            for own in grid.decode(model, containers)
        ]
        return torch.stack(latents)

    def integers(self, model: Model, container: Container) -> NDArray[np.int32]:
        """Return symbol plus predicted mean, in 1/16 of a quantiser step."""
        return grid.decode(model, [container])[0]


def refined_latents(
    model: Model, source: Source, quality_index: int, iterations: int, budget: int | None = None
) -> Tensor:
    """Refine latents `[C, h, w]` by gradient descent (`sdcodec.refinement`).

    `budget`: bytes for the blocks.
    """
    if not iterations:
        return source.latents
    if not isinstance(model.autoencoder, DifferentiableAutoencoder):
        raise OptionError("this model's decoder has no gradient to refine by; choose an effort from 0 to 3")
    from sdcodec.refinement import Refiner  # it imports LPIPS

    pixels = torch.from_numpy(source.pixels).to(model.device).permute(2, 0, 1).float().div_(255)
    count = block_count(source.width, source.height, model.autoencoder.factor)
    bits = None if budget is None else 8.0 * (budget - 2 * count)
    refiner = Refiner(model, quality_index, pixels, (source.height, source.width))
    return refiner.run(source.latents, iterations, bits)


def filed(envelope: Container, quality_index: int, coded: grid.CodedLatents) -> Container:
    """Put coded latents into their envelope.

    Raises OptionError for more bytes than a file may have, which photographs stay far below.
    """
    squared = coded.squared_error
    deviations = None if squared is None else error_levels.pack_deviations(squared)
    header = replace(envelope.header, quality_index=quality_index)
    if sum(map(len, coded.blocks)) > most_latent_bytes(header):
        raise OptionError("this image takes more bytes at this quality than a file may have; choose a lower quality")
    return replace(envelope, header=header, blocks=coded.blocks, deviations=deviations)


@dataclass
class _Encoding:
    """One image: its file at a quality, or the best one within a budget."""

    model: Model
    source: Source
    envelope: Container
    request: Request

    def __post_init__(self) -> None:
        self.latents = self.source.latents
        self.overhead = len(self._empty().to_bytes())

    def at_quality(self, quality_index: int) -> Encoded:
        """Return the file at a quality."""
        effort = self.request.effort
        self.latents = refined_latents(self.model, self.source, quality_index, effort.iterations)
        return Encoded.of(self.container(Setting(quality_index, effort.rounding)))

    def within(self, budget: int) -> Encoded:
        """Return the file of the highest quality that has at most `budget` bytes.

        Refinement comes between two searches.
        """
        setting = self.best_setting(budget)
        if iterations := self.request.effort.iterations:
            self.latents = refined_latents(
                self.model, self.source, setting.quality_index, iterations, budget - self.overhead
            )
            setting = self.best_setting(budget, setting.quality_index)
        data, setting = ratecontrol.coded_within(budget, setting, self.data)
        return Encoded(data, self.source.width, self.source.height, setting.quality_index / 2)

    def reaching(self, target: Target) -> Encoded:
        """Return the file of the lowest quality whose decoded image reaches the target.

        Each quality that is tried is refined on its own, and measured as a reader will decode it.
        """
        files: dict[int, Container] = {}
        effort, values = self.request.effort, {}

        def excess(quality_index: int) -> float:
            self.latents = refined_latents(self.model, self.source, quality_index, effort.iterations)
            [coded] = grid.code(self.model, self.latents[None], quality_index, effort.rounding)
            files[quality_index] = file = filed(self.envelope, quality_index, coded)
            latents = self.model.quantiser.dequantised(coded.values, quality_index, MEAN_BITS)
            [pixels] = render(self.model.autoencoder, latents[None], file.header, WHOLE)
            values[quality_index] = target.measure(pixels)
            return target.excess(values[quality_index])

        reached = ratecontrol.lowest_reaching(excess, target.slope, target.wavers)
        if reached is None:
            raise target.missed(values[HIGHEST_QUALITY_INDEX])
        return Encoded.of(files[reached])

    def best_setting(self, budget: int, near: int | None = None) -> Setting:
        """Return the best setting within the budget by estimated size.

        The search begins at `near`.
        """
        pixels = self.source.width * self.source.height
        return ratecontrol.best_setting(budget, pixels, self.request.effort.rounding, self.estimate, near)

    def estimate(self, setting: Setting) -> float:
        """Return the expected bytes of the file."""
        return self.overhead + grid.estimated_bytes(self.model, self.latents, setting.quality_index, setting.rounding)

    def container(self, setting: Setting) -> Container:
        """Return the file."""
        [coded] = grid.code(self.model, self.latents[None], setting.quality_index, setting.rounding)
        return filed(self.envelope, setting.quality_index, coded)

    def data(self, setting: Setting) -> bytes:
        """Return the file's bytes."""
        return self.container(setting).to_bytes()

    def _empty(self) -> Container:
        """Return the file without its entropy-coded bytes."""
        factor = self.model.autoencoder.factor
        blocks = (b"",) * block_count(self.source.width, self.source.height, factor)
        deviations = bytes(error_levels.groups(self.model.autoencoder.channels)) if self.model.measures_error else None
        return replace(self.envelope, blocks=blocks, deviations=deviations)
