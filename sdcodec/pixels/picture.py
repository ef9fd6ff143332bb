"""Picture: upright 8-bit pixels, and the kinds of image that it is read from."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
ImageSource = Image.Image | str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Pixels


@dataclass(frozen=True, eq=False)
class Picture:
    """An upright 8-bit picture.

    rgb: uint8 [H, W, 3]; alpha: uint8 [H, W], or None if every pixel is opaque.
    icc: the RGB profile of the values of `rgb`; None means sRGB.
    exif: a TIFF structure (no `Exif` prefix) without an orientation; xmp: an XML packet.
    """

    rgb: Pixels
    alpha: Pixels | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None

    def over_white(self) -> Pixels:
        """Return the picture as it is seen over white, uint8 [H, W, 3]."""
        if self.alpha is None:
            return self.rgb
        alpha = self.alpha[:, :, None].astype(np.uint16)
        return ((self.rgb * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
