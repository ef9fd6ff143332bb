"""What the harness asks of a codec: pixels and a quality to the bytes of a file, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Setting = str | int | float | bool | None


@runtime_checkable
class ImageCodec(Protocol):
    """A codec with fixed settings. Made once in each process; what its constructor takes are the options of `--codec`.

    The four values may be plain attributes, of the class or of the object.
    """

    @property
    def name(self) -> str:
        """Of the codec, for people."""
        ...

    @property
    def extension(self) -> str:
        """Of its files, no dot."""
        ...

    @property
    def settings(self) -> Mapping[str, Setting]:
        """Everything that decides its files; recorded with the results."""
        ...

    @property
    def qualities(self) -> Sequence[float]:
        """What `encode` takes, ascending: a higher quality gives, by and large, a larger file."""
        ...

    def encode(self, pixels: Pixels, quality: float) -> bytes:
        """uint8 `[H, W, 3]`, sRGB → the whole file: all that a decoder needs, headers included."""
        ...

    def decode(self, data: bytes) -> Pixels:
        """The file → uint8 `[H, W, 3]`; padding at the right and at the bottom is cropped off by the caller."""
        ...


@runtime_checkable
class RateControlled(Protocol):
    """A codec that meets a byte budget itself. The first of a run binds the others: see `sdcodec_eval.rates`."""

    def encode_within(self, pixels: Pixels, limit: int) -> tuple[bytes, float] | None:
        """The best file of at most `limit` bytes and its quality; None where no quality is so small."""
        ...


@runtime_checkable
class WithCeiling(Protocol):
    """A codec that can show its transform without quantisation."""

    def round_trip(self, pixels: Pixels) -> Pixels:
        """uint8 `[H, W, 3]` through the transform and back, nothing rounded between: what no rate can exceed."""
        ...
