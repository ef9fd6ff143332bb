"""What people do at very low rates: scale the picture down, encode it better, scale it up again."""

from __future__ import annotations

import numpy as np
from PIL import Image

from sdcodec_eval.codecs.protocol import ImageCodec, Pixels, Setting


class Downscaled:
    """Another codec at 1/factor of the size; Lanczos both ways.

    The file is the small picture's; that it is shown `factor` times larger is for whoever shows it to know, as a page's
    width and height attributes do.
    """

    def __init__(self, codec: ImageCodec, factor: int) -> None:
        self.codec, self.factor = codec, factor
        self.name, self.extension = f"{codec.name} at 1/{factor}", codec.extension
        self.settings: dict[str, Setting] = {**codec.settings, "downscale": factor, "filter": "lanczos"}
        self.qualities = codec.qualities

    def encode(self, pixels: Pixels, quality: float) -> bytes:
        """The file of the picture at 1/factor; sides are padded to multiples of it by edge replication first."""
        height, width = pixels.shape[:2]
        padding = ((0, -height % self.factor), (0, -width % self.factor), (0, 0))
        padded = np.pad(pixels, padding, mode="edge")
        return self.codec.encode(_resized(padded, 1 / self.factor), quality)

    def decode(self, data: bytes) -> Pixels:
        """The decoded picture at its former size, padding included."""
        return _resized(self.codec.decode(data), self.factor)


def _resized(pixels: Pixels, scale: float) -> Pixels:
    size = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
