"""An encoded image, as `Codec.encode` returns it."""

from __future__ import annotations

from dataclasses import dataclass

from sdcodec.container import Container


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
