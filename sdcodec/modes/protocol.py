"""Protocol of a mode: latents ↔ the payload of a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sdcodec.container import Container
from sdcodec.effort import Effort
from sdcodec.encoded import Encoded
from sdcodec.model import Model
from sdcodec.targets import Target


@dataclass(frozen=True)
class Source:
    """An image to encode.

    latents: float32 `[C, h, w]`. pixels: uint8 `[H, W, 3]`, padded to whole latents. height, width: of the image
        itself.
    """

    latents: Tensor
    pixels: NDArray[np.uint8]
    height: int
    width: int


@dataclass(frozen=True)
class Request:
    """Rate and effort: a quality index 0..200, a budget in bytes, or a target.

    With a budget or a target the quality index has no influence.
    """

    quality_index: int
    budget: int | None
    effort: Effort
    target: Target | None = None


class Mode(Protocol):
    """Latents ↔ the payload of a file."""

    def encode(self, model: Model, source: Source, envelope: Container, request: Request) -> Encoded:
        """Return the file.

        `envelope` has the file's header, but for the quality, and all chunks beside the latents. Raises BudgetError
        for a budget that cannot be met, TargetError for a target beyond the highest quality, OptionError for an effort
        that the model does not allow.
        """
        ...

    def decode(self, model: Model, containers: Sequence[Container]) -> Tensor:
        """Return the decoder's latents `[B, C, h, w]`.

        The files have one size, quality and prior. Raises FormatError.
        """
        ...

    def integers(self, model: Model, container: Container) -> NDArray[np.int32]:
        """Return the decoded integers of a file, `[C, h, w]`, the same on every machine.

        Raises FormatError.
        """
        ...
