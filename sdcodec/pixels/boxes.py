"""Boxes of AVIF and HEIF (ISO/IEC 14496-12): colour of the primary image."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from sdcodec.pixels.coded import CodePoints

FILE_TYPE = b"ftyp"
VERSION_AND_FLAGS = 4  # bytes at the start of a full box


def code_points(data: bytes) -> CodePoints | None:
    """Return the code points of the primary image's `nclx` colour box, or None."""
    try:
        return _code_points(data)
    except (struct.error, IndexError):  # the image's decoder tells whether the file is damaged
        return None


def _code_points(data: bytes) -> CodePoints | None:
    meta = _first(data, b"meta")
    if meta is None:
        return None
    inside = meta[VERSION_AND_FLAGS:]
    properties = _first(inside, b"iprp") or b""
    colours = {
        number: CodePoints(*struct.unpack_from(">HHHB", body, 4))
        for number, (kind, body) in enumerate(_boxes(_first(properties, b"ipco") or b""), start=1)
        if kind == b"colr" and body.startswith(b"nclx")
    }
    associated = _associations(_first(properties, b"ipma") or b"", _primary(_first(inside, b"pitm") or b""))
    return next((colours[number] for number in associated if number in colours), None)


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
