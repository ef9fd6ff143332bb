"""JPEG, WebP and AVIF through Pillow, and the largest of their qualities that fits into a number of bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

NEIGHBOURS = 4  # sizes are not quite monotonic in quality: so many more are tried above the largest that fits


@dataclass(frozen=True)
class ClassicCodec:
    """A codec of Pillow's, with its settings and its range of integer qualities."""

    name: str
    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    lowest: int = 0
    highest: int = 100

    def encode(self, image: Image.Image, quality: int) -> bytes:
        """The bytes of a file; RGB images."""
        buffer = io.BytesIO()
        image.save(buffer, self.kind, quality=quality, **self.settings)
        return buffer.getvalue()

    def best_within(self, image: Image.Image, budget: int) -> tuple[bytes, int] | None:
        """The file of the largest quality that is at most `budget` bytes long, and that quality; None if none is."""
        files: dict[int, bytes] = {}

        def fits(quality: int) -> bool:
            files[quality] = self.encode(image, quality)
            return len(files[quality]) <= budget

        low, high = self.lowest - 1, self.highest + 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        for quality in range(high, min(high + NEIGHBOURS, self.highest + 1)):
            if len(files[quality]) <= budget if quality in files else fits(quality):
                low = quality
        return (files[low], low) if low >= self.lowest else None


JPEG = ClassicCodec("JPEG", "JPEG", {"progressive": True, "optimize": True})
WEBP = ClassicCodec("WebP", "WEBP", {"method": 6})
AVIF = ClassicCodec("AVIF", "AVIF", {"speed": 4, "max_threads": 1})


def decoded(data: bytes) -> NDArray[np.uint8]:
    """The pixels that a reader of the file sees, uint8 `[H, W, 3]`."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))
