"""Classic codecs through Pillow: JPEG, WebP, AVIF and JPEG XL."""

from __future__ import annotations

import importlib
import io
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from PIL import Image, features

from sdcodec.errors import OptionError
from sdcodec_eval.codecs.protocol import Pixels, Setting


class ClassicCodec:
    """Format that Pillow writes at an integer quality, 0 to 100.

    Options are the arguments of Pillow's `save` in `defaults` and `others`; those in `others` default to Pillow's value.
    """

    name: ClassVar[str]
    extension: ClassVar[str]
    kind: ClassVar[str]
    defaults: ClassVar[Mapping[str, Setting]]
    others: ClassVar[frozenset[str]] = frozenset()
    qualities = range(101)

    def __init__(self, **options: Setting) -> None:
        known = self.defaults.keys() | self.others
        if unknown := options.keys() - known:
            raise OptionError(
                f"{self.name} has no option {', '.join(sorted(unknown))}; choose from {', '.join(sorted(known))}"
            )
        self.settings: dict[str, Setting] = {**self.defaults, **options}

    def encode(self, pixels: Pixels, quality: float) -> bytes:
        """Encode pixels to the bytes of a file."""
        buffer = io.BytesIO()
        save_options: dict[str, Any] = dict(self.settings)
        Image.fromarray(pixels).save(buffer, self.kind, quality=round(quality), **save_options)
        return buffer.getvalue()

    def decode(self, data: bytes) -> Pixels:
        """Decode the bytes of a file to pixels."""
        with Image.open(io.BytesIO(data), formats=[self.kind]) as image:
            return np.asarray(image.convert("RGB"))


class Jpeg(ClassicCodec):
    """JPEG by Pillow's libjpeg-turbo: progressive, optimised Huffman tables, 4:2:0."""

    name, extension, kind = "JPEG", "jpg", "JPEG"
    defaults: ClassVar[Mapping[str, Setting]] = {"progressive": True, "optimize": True}
    others = frozenset({"subsampling"})


class WebP(ClassicCodec):
    """WebP by libwebp: lossy, slowest method."""

    name, extension, kind = "WebP", "webp", "WEBP"
    defaults: ClassVar[Mapping[str, Setting]] = {"method": 6}
    others = frozenset({"use_sharp_yuv"})


class Avif(ClassicCodec):
    """AVIF by libavif; one thread, so that files do not depend on the machine."""

    name, extension, kind = "AVIF", "avif", "AVIF"
    defaults: ClassVar[Mapping[str, Setting]] = {"speed": 4, "max_threads": 1}
    others = frozenset({"codec", "subsampling"})

    def __init__(self, **options: Setting) -> None:
        super().__init__(**options)
        if not features.check("avif"):
            raise OptionError("this Pillow cannot write AVIF; install pillow 11.3 or later, or omit avif")


class JpegXL(ClassicCodec):
    """JPEG XL by libjxl, through pillow-jxl-plugin: lossy, one thread."""

    name, extension, kind = "JPEG XL", "jxl", "JXL"
    defaults: ClassVar[Mapping[str, Setting]] = {"effort": 7, "num_threads": 1}
    others = frozenset({"decoding_speed"})

    def __init__(self, **options: Setting) -> None:
        super().__init__(**options)
        try:
            plugin: Any = importlib.import_module("pillow_jxl.JpegXLImagePlugin")
        except ImportError as error:
            raise OptionError("jxl needs pillow-jxl-plugin; install sdcodec[eval], or omit jxl") from error
        plugin.DECODE_THREADS = self.settings["num_threads"]
