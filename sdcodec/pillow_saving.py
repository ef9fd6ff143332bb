"""Saving of Pillow images as `.sdc`: keywords, metadata and orientation."""

from __future__ import annotations

import difflib
import inspect
import os
from typing import IO, Any

from PIL import Image
from PIL.ExifTags import Base as ExifTag

import sdcodec
from sdcodec.errors import OptionError, SdcodecError, warn
from sdcodec.pixels.depth import eight_bit
from sdcodec.pixels.metadata import (
    EXIF_PREFIX,
    RAW_PROFILES,
    TURNS,
    kept_exif,
    kept_xmp,
    orientation_of,
    upright,
)

FORMAT = "SDC"
METADATA = {"icc_profile": "icc", "exif": "exif", "xmp": "xmp"}  # keywords of Pillow, and kinds of `sdcodec.encode`
TURNING = frozenset(["exif", "xmp", "XML:com.adobe.xmp", *RAW_PROFILES])  # keys of `info` that state an orientation
KEYWORDS = frozenset(inspect.signature(sdcodec.encode).parameters) - {"image", "metadata"}
SIMILAR = 0.8  # ratio of difflib from which a keyword is taken for a mistyped one


def save(image: Image.Image, file: IO[bytes], filename: str | bytes) -> None:
    """Write an image with the keywords in its `encoderinfo`: Pillow's save handler.

    Keywords of `sdcodec.encode` are passed on; `exif`, `xmp` and `icc_profile` are kept only if given; others are
    ignored. The pixels are turned upright. Encoding ends before anything is written.

    Raises ValueError for a keyword out of its range, OSError for anything else.
    """
    given: dict[str, Any] = image.encoderinfo
    if image.mode == "F":
        raise OSError("cannot write mode F as SDC: floating-point pixels have no agreed white; convert to RGB or I;16")
    _warn_of_mistyped(given)
    options = {"device": "cpu"} | {key: value for key, value in given.items() if key in KEYWORDS}
    try:
        source, kinds = _with_metadata(image, given)
        data = sdcodec.encode(source, metadata=kinds, **options)
    except OptionError as error:
        raise ValueError(str(error)) from error
    except SdcodecError as error:
        raise OSError(f"cannot write {_name(filename)}: {error}") from error
    file.write(data)


def save_all(image: Image.Image, file: IO[bytes], filename: str | bytes) -> None:
    """Write the only frame of an image. Raises OSError if there are more."""
    count = getattr(image, "n_frames", 1) + len(list(image.encoderinfo.get("append_images") or ()))
    if count > 1:
        raise OSError(f"cannot write {count} frames as SDC, which has one; save each to its own file")
    save(image, file, filename)


def _with_metadata(image: Image.Image, given: dict[str, Any]) -> tuple[Image.Image, list[str]]:
    """Return the image with the metadata to be kept in `info`, and its kinds.

    A given profile is that of the pixels. A given EXIF block with an orientation says how the pixels are turned;
    otherwise the image's own does.
    """
    wanted: dict[str | tuple[int, int], Any] = {
        key: value for key in METADATA if (value := _metadata_bytes(key, given.get(key)))
    }
    if not wanted:
        return image, []
    name = f"{image.mode} image"
    source = eight_bit(image, name)  # which needs the class of a TIFF
    source = source.copy() if source is image else source
    source.info = {key: value for key, value in image.info.items() if key not in TURNING} | wanted
    kept = {"exif": kept_exif(source, name) if "exif" in wanted else None, "xmp": kept_xmp(source)}
    orientation = source.getexif().get(ExifTag.Orientation) or orientation_of(image, name)
    source = upright(source, orientation if orientation in TURNS else 1)
    source.format = image.format  # PNG's gamma counts
    source.info |= {key: value for key, value in kept.items() if value}
    return source, [kind for key, kind in METADATA.items() if key in wanted]


def _metadata_bytes(key: str, value: Any) -> bytes:
    """Return metadata as bytes, EXIF without its prefix; empty for None."""
    if isinstance(value, Image.Exif):
        value = value.tobytes() if len(value) else b""
    if isinstance(value, str) and key == "xmp":
        value = value.encode()
    if value is None:
        return b""
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise OptionError(f"{key} is {type(value).__name__}; give bytes")
    return bytes(value).removeprefix(EXIF_PREFIX) if key == "exif" else bytes(value)


def _warn_of_mistyped(given: dict[str, Any]) -> None:
    for key in given.keys() - KEYWORDS - METADATA.keys():
        if near := difflib.get_close_matches(key, KEYWORDS | METADATA.keys(), 1, SIMILAR):
            warn(f"the keyword {key!r} is ignored; {near[0]!r} is known")


def _name(filename: str | bytes) -> str:
    return os.fsdecode(filename or "") or FORMAT
