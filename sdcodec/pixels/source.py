"""Input: PIL images, paths, bytes, files and arrays as upright 8-bit pictures."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from PIL import Image

from sdcodec.errors import ImageError, OptionError, warn
from sdcodec.options import check_integer, metadata_kinds
from sdcodec.pixels.arrays import from_array, refuse_tensor
from sdcodec.pixels.colour import coded_colour, from_coded, to_srgb
from sdcodec.pixels.depth import Samples, samples_of
from sdcodec.pixels.metadata import kept_exif, kept_xmp, orientation_of, upright
from sdcodec.pixels.opening import decoding, name_of, opened
from sdcodec.pixels.picture import ImageSource, Picture

DEFAULT_MAX_PIXELS = 2**28


def read_picture(
    source: ImageSource,
    *,
    metadata: str | Iterable[str] = (),
    max_pixels: int = DEFAULT_MAX_PIXELS,
    frame: int | None = None,
    allow_truncated: bool = False,
) -> Picture:
    """Read an image and convert it to upright 8-bit sRGB.

    source: a PIL image, a path, the bytes of an image file (also as bytearray or memoryview), a file open for binary
        reading, which is read from its beginning if it can be rewound, or an array of uint8, or uint16 with white at
        65535, [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]. Any Pillow mode but floating point.
    metadata: kinds to keep: "all", "none", or some of "icc", "exif" and "xmp", as a collection or with commas. With
        "icc" the values of an RGB image stay in its profile; otherwise, and for CMYK and grey profiles always, they are
        converted to sRGB.
    max_pixels: an image of more pixels is refused before any is decoded.
    frame: frame or page of the file, counted from 0. None: the one that the file opens with, with a warning if there
        are others.
    allow_truncated: read a file that is cut short; its missing part is grey, black or transparent, with a warning.

    Alpha that is opaque everywhere is dropped. Raises ImageError for data that is no image, is damaged or too large,
    and OptionError for unknown metadata or a frame that does not exist. Issues SdcodecWarning if the result may
    differ from the expected one. The source is not changed, except for the frame of a PIL image.
    """
    kept = metadata_kinds(metadata)
    check_integer("frame", frame, "give a number from 0 up")
    refuse_tensor(source)
    if isinstance(source, np.ndarray):
        _check_frame(frame, 1, "array")
        _check_size(source.shape[1] if source.ndim > 1 else 1, len(source) if source.ndim else 1, max_pixels, "array")
        return from_array(source)
    name = name_of(source)
    with (
        decoding(name, max_pixels),
        opened(source, name, allow_truncated=allow_truncated, max_pixels=max_pixels) as file,
    ):
        image = file.image
        _check_size(image.width, image.height, max_pixels, name)
        if _selects_frame(image, frame, name):
            _check_size(image.width, image.height, max_pixels, name)
        image.load()
        samples = samples_of(image, file.data, name)
        colour, icc = _in_srgb(image, samples, file.data, name, keep="icc" in kept)
        orientation = orientation_of(image, name)
        alpha = None if samples.alpha is None else upright(Image.fromarray(samples.alpha), orientation)
        return Picture(
            rgb=np.array(upright(colour, orientation)),
            alpha=None if alpha is None else np.array(alpha),
            icc=icc,
            exif=kept_exif(image, name) if "exif" in kept else None,
            xmp=kept_xmp(image) if "xmp" in kept else None,
        )


def _in_srgb(
    image: Image.Image, samples: Samples, data: bytes | None, name: str, *, keep: bool
) -> tuple[Image.Image, bytes | None]:
    """Convert the colour to sRGB, or return it with the RGB profile to keep."""
    profile = image.info.get("icc_profile")
    stated, overrides = coded_colour(image, data)
    if overrides:
        profile = None
    if stated is not None and not profile:
        return from_coded(samples.colour, samples.deep, stated, name), None
    return to_srgb(samples.colour, profile, keep=keep)


def _selects_frame(image: Image.Image, frame: int | None, name: str) -> bool:
    """Go to the frame, and return whether it changed.

    Warn if no frame is chosen and there are several.
    """
    count = 1 if image.format == "PSD" else getattr(image, "n_frames", 1)  # a PSD opens with its layers merged
    if frame is None:
        if count > 1:
            warn(f"has {count} frames; frame {image.tell()} is read; choose another with --frame N (frame)", name)
        return False
    _check_frame(frame, count, name)
    if frame == image.tell() or count == 1:
        return False
    image.seek(frame)
    return True


def _check_frame(frame: int | None, count: int, name: str) -> None:
    if frame is not None and not 0 <= frame < count:
        raise OptionError(f"{name}: frame {frame} does not exist; the file has {count}, counted from 0")


def _check_size(width: int, height: int, max_pixels: int, name: str) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"{name}: the image has no pixels")
    if width * height > max_pixels:
        raise ImageError(
            f"{name}: {width} x {height} are {width * height} pixels, above the limit of {max_pixels}; "
            "raise --max-pixels (max_pixels)"
        )
