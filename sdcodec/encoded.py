"""An encoded image, as `Codec.encode` returns it, and a decoded one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdcodec.container import Container
from sdcodec.pixels import Picture, unpack_alpha


@dataclass(frozen=True, repr=False)
class Encoded:
    """The bytes of a file, the image's size in pixels, and its quality 0..100."""

    data: bytes
    width: int
    height: int
    quality: float

    @classmethod
    def of(cls, container: Container) -> Encoded:
        """Build it from a container."""
        header = container.header
        return cls(container.to_bytes(), header.width, header.height, header.quality_index / 2)

    @property
    def bpp(self) -> float:
        """Bits of the whole file per pixel."""
        return 8 * len(self.data) / (self.width * self.height)

    def __bytes__(self) -> bytes:
        return self.data

    def __repr__(self) -> str:
        return f"<Encoded: {len(self.data)} bytes, {self.width} x {self.height}, quality {self.quality:g}>"


def decoded_picture(pixels: NDArray[np.uint8], container: Container) -> Picture:
    """Return decoded pixels `[H, W, 3]` with their transparency and metadata.

    Raises FormatError for a damaged alpha channel.
    """
    height, width = pixels.shape[:2]
    alpha = None if container.alpha is None else unpack_alpha(container.alpha, width, height)
    return Picture(pixels, alpha, container.icc, container.exif, container.xmp)
