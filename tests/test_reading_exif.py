"""EXIF in PNG and JPEG: found with bytes after it, and reported if it is damaged."""

from __future__ import annotations

import io
import struct
import warnings

import numpy as np
import pytest
from PIL import Image

from raw_images import png_bytes
from sdcodec.errors import ImageError, SdcodecWarning
from sdcodec.pixels import read_picture

KEEP = frozenset({"exif"})
PREFIX = b"Exif\0\0"
# One directory with an orientation of 6 and the description "hello".
TIFF = b"MM\0*" + struct.pack(">IHHHIIHHIHHI", 8, 2, 0x10E, 2, 6, 38, 0x112, 3, 1, 6, 0, 0) + b"hello\0"
DAMAGED = [b"garbage", b"MM\0*\0\0\xff\xff", b"MM\0*\0\0\0\x08\0\x09\0\0", b"II"]


def raw_profile(block: bytes, after: bytes = b"", name: bytes = b"exif") -> tuple[bytes, bytes]:
    """Return the text chunk in which some programs store EXIF as hexadecimal digits."""
    digits = block.hex()
    lines = "\n".join(digits[i : i + 72] for i in range(0, len(digits), 72))
    text = b"\n%s\n%8d\n%s\n" % (b"exif", len(block), lines.encode())
    return b"tEXt", b"Raw profile type " + name + b"\0" + text + after


def png_with(*chunks: tuple[bytes, bytes]) -> bytes:
    return png_bytes(np.full((32, 64, 3), 99), 8, 2, before=chunks)


def jpeg_with(block: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 32)).save(buffer, "JPEG", exif=PREFIX + block)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        png_with(raw_profile(PREFIX + TIFF)),
        png_with(raw_profile(PREFIX + PREFIX + TIFF)),
        png_with(raw_profile(PREFIX + TIFF, b'\x1e"$')),
        png_with(raw_profile(PREFIX + TIFF + b"bytes behind")),
        png_with(raw_profile(PREFIX + TIFF, name=b"APP1")),
        png_with((b"eXIf", TIFF + b"bytes behind")),
        png_with((b"eXIf", PREFIX + TIFF)),
        jpeg_with(TIFF + b"bytes behind"),
    ],
)
def test_exif_is_found_with_bytes_around_it(data: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = read_picture(data, metadata=KEEP)
    assert picture.rgb.shape == (64, 32, 3)
    assert picture.exif is not None
    kept = Image.Exif()
    kept.load(picture.exif)
    assert dict(kept) == {0x10E: "hello"}


@pytest.mark.parametrize(
    "data",
    [
        *(png_with((b"eXIf", block)) for block in DAMAGED),
        *(png_with(raw_profile(PREFIX + block)) for block in DAMAGED),
        *(jpeg_with(block) for block in DAMAGED),
        png_with((b"tEXt", b"Raw profile type exif\0no profile")),
        png_with((b"tEXt", b"Raw profile type exif\0\nexif\n      99\n4d4d\n")),
    ],
)
def test_damaged_exif_is_reported(data: bytes) -> None:
    with pytest.warns(SdcodecWarning, match="its EXIF block is damaged"):
        assert read_picture(data).rgb.shape == (32, 64, 3)
    with pytest.warns(SdcodecWarning), pytest.raises(ImageError, match="leave exif out"):
        read_picture(data, metadata=KEEP)


@pytest.mark.parametrize("data", [png_with((b"eXIf", b"")), jpeg_with(b"")])
def test_empty_exif_is_none(data: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_picture(data, metadata=KEEP).exif is None


def test_xmp_does_not_turn_avif_but_exif_of_its_reader_does() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    buffer = io.BytesIO()
    Image.new("RGB", (64, 32)).save(buffer, "AVIF", xmp=xmp)
    assert read_picture(buffer.getvalue()).rgb.shape == (32, 64, 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.new("RGB", (64, 32)).save(buffer, "AVIF", exif=exif)  # written as a box of rotation
    assert read_picture(buffer.getvalue()).rgb.shape == (64, 32, 3)
