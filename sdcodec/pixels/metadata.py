"""Metadata: EXIF, XMP, orientation, and the options of Pillow's writers."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Any

from PIL import Image
from PIL.ExifTags import Base as ExifTag
from PIL.PngImagePlugin import PngInfo

from sdcodec.errors import ImageError, warn

XMP_TAG = 700
EXIF_PREFIX = b"Exif\0\0"
RAW_PROFILES = ("Raw profile type exif", "Raw profile type APP1")  # text chunks of PNG with an EXIF block
TURNED_BY_BOXES = ("AVIF", "HEIF")  # readers put such a turn into EXIF, and XMP does not turn these images
ORDERS = {b"II": "<", b"MM": ">"}
TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Tags about the photograph; those about the TIFF's own layout must not move to another file.
TIFF_TAGS_KEPT = (
    ExifTag.ImageDescription,
    ExifTag.Make,
    ExifTag.Model,
    ExifTag.Software,
    ExifTag.DateTime,
    ExifTag.Artist,
    ExifTag.Copyright,
)


def pillow_info(icc: bytes | None, exif: bytes | None, xmp: bytes | None) -> dict[str | tuple[int, int], Any]:
    """Return metadata under the keys of Pillow's `info`; exif is a TIFF structure."""
    found: dict[str | tuple[int, int], Any] = {
        "icc_profile": icc,
        "exif": EXIF_PREFIX + exif if exif else None,
        "xmp": xmp,
    }
    return {key: value for key, value in found.items() if value}


def metadata_options(image: Image.Image, kind: str) -> dict[str, Any]:
    """Return the options of Pillow's `save` for the metadata in `info`.

    Each of its writers takes it in another way.
    """
    options = {key: image.info[key] for key in ("icc_profile", "exif", "xmp") if image.info.get(key)}
    if kind == "PNG" and "xmp" in options:
        text = PngInfo()
        text.add_itxt("XML:com.adobe.xmp", options.pop("xmp").decode("utf-8", "replace"))
        options["pnginfo"] = text
    if kind == "TIFF":
        options |= {"compression": "tiff_adobe_deflate"}
        tags = Image.Exif()
        if "exif" in options:
            tags.load(options.pop("exif"))
            tags = _exif_for_tiff(tags)
            options["compression"] = (
                "raw"  # Pillow writes directories inside a directory only when it compresses nothing
            )
        if "xmp" in options:
            tags[XMP_TAG] = options.pop("xmp")
        options["tiffinfo"] = tags
    return options


def orientation_of(image: Image.Image, name: str) -> int:
    """Return the EXIF (or XMP) orientation, 1..8, or 1 if it is missing.

    Warn if the EXIF block is damaged: a photograph with broken EXIF is still a photograph.
    """
    try:
        block = exif_block(image)
        if block:
            list(_directory(block))
        if (block and "exif" not in image.info) or image.format in TURNED_BY_BOXES:
            exif = Image.Exif()
            exif.load(block or b"")
        else:
            exif = image.getexif()
        orientation = exif.get(ExifTag.Orientation, 1)
    except Exception:  # damaged blocks raise errors of many classes
        warn("its EXIF block is damaged; the image is taken as upright", name)
        return 1
    return orientation if orientation in TURNS else 1


def exif_block(image: Image.Image) -> bytes | None:
    """Return the EXIF block of a file, a TIFF structure; None if it has none.

    Raises ValueError for a text chunk of PNG that holds no block.
    """
    block: bytes | None = image.info.get("exif")
    if block is None:
        text = next((image.info[key] for key in RAW_PROFILES if key in image.info), None)
        if text is None:
            return None
        # Lines of a name and a length, then hexadecimal digits; other bytes may follow.
        _, length, digits = str(text).lstrip("\n").split("\n", 2)
        block = bytes.fromhex("".join(digits.split())[: 2 * int(length)])
        if len(block) < int(length):
            raise ValueError("fewer digits than the length says")
    while block.startswith(EXIF_PREFIX):
        block = block.removeprefix(EXIF_PREFIX)
    return block or None


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """Turn an image by its orientation, 1..8 (EXIF 2.32, 4.6.4)."""
    turn = TURNS[orientation]
    return image if turn is None else image.transpose(turn)


def kept_exif(image: Image.Image, name: str) -> bytes | None:
    """Return the EXIF block as a TIFF structure, without its orientation.

    The pixels are upright already.
    """
    try:
        block = exif_block(image)
        if not block:
            exif = _exif_for_tiff(image.getexif()) if image.format == "TIFF" else image.getexif()
            if not exif:
                return None
            block = exif.tobytes().removeprefix(EXIF_PREFIX)
        return _without_orientation(block)
    except Exception as error:
        raise ImageError(f"{name}: its EXIF block is damaged; leave exif out of --metadata (metadata)") from error


def _exif_for_tiff(tags: Image.Exif) -> Image.Exif:
    """Return a TIFF's tags about the photograph, which can move to another file."""
    exif = Image.Exif()
    for tag in TIFF_TAGS_KEPT:
        if tag in tags:
            exif[tag] = tags[tag]
    for pointer in (ExifTag.ExifOffset, ExifTag.GPSInfo):
        if entries := tags.get_ifd(pointer):
            exif.get_ifd(pointer).update(entries)
            exif[pointer] = 0  # the offset, which the writer fills in
    return exif


def _without_orientation(tiff: bytes) -> bytes:
    """Cut the orientation's 12-byte entry out of the first directory.

    Data behind offsets stays in its place.
    """
    for position, tag in _directory(tiff):
        if tag == ExifTag.Orientation:
            order = ORDERS[tiff[:2]]
            (start,) = struct.unpack_from(order + "I", tiff, 4)
            (count,) = struct.unpack_from(order + "H", tiff, start)
            end = start + 2 + 12 * count + 4  # the directory's last field is the offset of the next one
            fewer = struct.pack(order + "H", count - 1)
            return (
                tiff[:start] + fewer + tiff[start + 2 : position] + tiff[position + 12 : end] + bytes(12) + tiff[end:]
            )
    return tiff


def _directory(tiff: bytes) -> Iterator[tuple[int, int]]:
    """Yield the offset and the tag of each entry of the first directory.

    Raises KeyError and struct.error if the structure is damaged.
    """
    order = ORDERS[tiff[:2]]
    (start,) = struct.unpack_from(order + "I", tiff, 4)
    (count,) = struct.unpack_from(order + "H", tiff, start)
    for position in range(start + 2, start + 2 + 12 * count, 12):
        tag, *_ = struct.unpack_from(order + "HHII", tiff, position)
        yield position, tag


def kept_xmp(image: Image.Image) -> bytes | None:
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    if not xmp:
        return None
    data = xmp.encode() if isinstance(xmp, str) else bytes(xmp)
    return re.sub(rb'\s*tiff:Orientation="[0-9]"|<tiff:Orientation>[0-9]</tiff:Orientation>', b"", data)
