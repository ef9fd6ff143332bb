"""Codec at a reduced resolution: downscale, encode at a higher quality, upscale."""

from __future__ import annotations

import numpy as np
from PIL import Image

from sdcodec_eval.codecs.protocol import ImageCodec, Pixels, Setting


class Downscaled:
    """Wrapper that runs a codec at 1/factor of the size, with Lanczos filters.

    The file does not contain the factor; the viewer must know it, like the width and height attributes of a web page.
    """

    def __init__(self, codec: ImageCodec, factor: int) -> None:
        self.codec, self.factor = codec, factor
        self.name, self.extension = f"{codec.name} at 1/{factor}", codec.extension
        self.settings: dict[str, Setting] = {**codec.settings, "downscale": factor, "filter": "lanczos"}
        self.qualities = codec.qualities

    def encode(self, pixels: Pixels, quality: float) -> bytes:
        """Encode at 1/factor, after padding the sides to multiples of it by replication."""
        height, width = pixels.shape[:2]
        padding = ((0, -height % self.factor), (0, -width % self.factor), (0, 0))
        padded = np.pad(pixels, padding, mode="edge")
        return self.codec.encode(_resized(padded, 1 / self.factor), quality)

    def decode(self, data: bytes) -> Pixels:
        """Decode to the original size, padding included."""
        return _resized(self.codec.decode(data), self.factor)


def _resized(pixels: Pixels, scale: float) -> Pixels:
    size = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
