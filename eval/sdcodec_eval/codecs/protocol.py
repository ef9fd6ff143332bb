"""Protocols of a codec: encode pixels at a quality to a file, and decode it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Setting = str | int | float | bool | None


@runtime_checkable
class ImageCodec(Protocol):
    """Codec with fixed settings, built once per process.

    The options of `--codec` are the arguments of its constructor. The four properties may be plain attributes of the
    class or of the object.
    """

    @property
    def name(self) -> str:
        """Return the display name."""
        ...

    @property
    def extension(self) -> str:
        """Return the file extension without a dot."""
        ...

    @property
    def settings(self) -> Mapping[str, Setting]:
        """Return the settings that determine its files, for the results."""
        ...

    @property
    def qualities(self) -> Sequence[float]:
        """Return the qualities for `encode`, ascending, mostly with the file size."""
        ...

    def encode(self, pixels: Pixels, quality: float) -> bytes:
        """Encode uint8 `[H, W, 3]`, sRGB, to a complete file with all headers."""
        ...

    def decode(self, data: bytes) -> Pixels:
        """Decode to uint8 `[H, W, 3]`; the caller crops padding at the right and bottom."""
        ...


@runtime_checkable
class RateControlled(Protocol):
    """Codec that meets a byte budget itself; the first one of a run is the reference."""

    def encode_within(self, pixels: Pixels, limit: int) -> tuple[bytes, float] | None:
        """Encode at the highest quality of at most `limit` bytes; None if there is none.

        Returns the file and its quality.
        """
        ...


@runtime_checkable
class WithCeiling(Protocol):
    """Codec that can run its transform without quantisation."""

    def round_trip(self, pixels: Pixels) -> Pixels:
        """Transform uint8 `[H, W, 3]` and invert it, unquantised."""
        ...
