"""Boxes of AVIF and HEIF (ISO/IEC 23008-12): colour and crop of the image."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from fractions import Fraction

from sdcodec.pixels.coded import CodePoints

FILE_TYPE = b"ftyp"
VERSION_AND_FLAGS = 4  # bytes at the start of a full box


def code_points(data: bytes) -> CodePoints | None:
    """Return the code points of the primary image's `nclx` colour box, or None."""
    for kind, body in _properties(data):
        if kind == b"colr" and body.startswith(b"nclx") and len(body) >= 11:
            return CodePoints(*struct.unpack_from(">HHHB", body, 4))
    return None


def clean_aperture(data: bytes, width: int, height: int) -> tuple[int, int, int, int] | None:
    """Return the crop of the primary image's `clap` box: left, top, right, bottom.

    None without a box, or for a crop that is not of whole pixels inside the image.
    """
    for kind, body in _properties(data):
        if kind == b"clap" and len(body) >= 32:
            sides, offsets = struct.unpack_from(">4I", body), struct.unpack_from(">iIiI", body, 16)
            if not all((*sides[1::2], *offsets[1::2])):
                return None
            edges = []
            for whole, i in ((width, 0), (height, 2)):
                side = Fraction(sides[i], sides[i + 1])
                first = (whole - side) / 2 + Fraction(offsets[i], offsets[i + 1])
                edges.append((first, first + side))
                if first.denominator > 1 or side.denominator > 1 or not 0 <= first < first + side <= whole:
                    return None
            (left, right), (top, bottom) = edges
            return int(left), int(top), int(right), int(bottom)
    return None


def _properties(data: bytes) -> list[tuple[bytes, bytes]]:
    """Return kinds and contents of the primary image's property boxes."""
    try:
        inside = (_first(data, b"meta") or b"")[VERSION_AND_FLAGS:]
        properties = _first(inside, b"iprp") or b""
        every = list(_boxes(_first(properties, b"ipco") or b""))
        numbers = _associations(_first(properties, b"ipma") or b"", _primary(_first(inside, b"pitm") or b""))
        return [every[number - 1] for number in numbers if 0 < number <= len(every)]
    except (struct.error, IndexError):  # the image's decoder tells whether the file is damaged
        return []


def _primary(body: bytes) -> int:
    """Return the number of the primary item from the box `pitm`."""
    return struct.unpack_from(">H" if body[0] == 0 else ">I", body, VERSION_AND_FLAGS)[0]


def _associations(body: bytes, item: int) -> list[int]:
    """Return the numbers of the item's properties from the box `ipma`."""
    version, wide = body[0], body[3] & 1
    (entries,) = struct.unpack_from(">I", body, VERSION_AND_FLAGS)
    position = VERSION_AND_FLAGS + 4
    for _ in range(entries):
        (own,) = struct.unpack_from(">H" if version < 1 else ">I", body, position)
        position += 2 if version < 1 else 4
        count = body[position]
        numbers = struct.unpack_from(f">{count}{'H' if wide else 'B'}", body, position + 1)
        if own == item:
            return [number & (0x7FFF if wide else 0x7F) for number in numbers]
        position += 1 + count * (2 if wide else 1)
    return []


def _first(data: bytes, kind: bytes) -> bytes | None:
    return next((body for own, body in _boxes(data) if own == kind), None)


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the kind and the content of each box."""
    position = 0
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        start = position + 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, start)
            start += 8
        end = position + length if length else len(data)
        if end < start:
            return
        yield kind, data[start:end]
        position = end
