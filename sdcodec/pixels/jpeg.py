"""JPEG files whose end is missing, cut, or followed by other bytes."""

from __future__ import annotations

import io
import re
import struct
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from sdcodec.pixels.damage import cut_short, warn_of_trailing

SIGNATURE = b"\xff\xd8\xff"
END = b"\xff\xd9"
MULTI_PICTURE = b"MPF\0"  # of an APP2 segment; the pictures behind the first are its frames
START_OF_SCAN, END_OF_IMAGE, APP2 = 0xDA, 0xD9, 0xE2
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
PROGRESSIVE = frozenset({0xC2, 0xCA})
MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
OTHER_BITS = bytes(np.random.default_rng(0).integers(1, 255, 1 << 12, np.uint8))


@dataclass
class Layout:
    """The segments of a file.

    size: rows and columns, None without a frame; end: the offset behind the end mark, None without one; missing:
    coefficients (component, index) whose last bit no scan holds.
    """

    end: int | None = None
    multi_picture: bool = False
    size: tuple[int, int] | None = None
    missing: set[tuple[int, int]] = field(default_factory=set)


def mended(data: bytes, name: str, *, allow_truncated: bool, max_pixels: int) -> bytes:
    """Return a JPEG with an end mark; warn if it was missing or bytes follow it.

    Raises ImageError for a file that is cut, unless `allow_truncated`: missing parts are then grey.
    """
    layout = layout_of(data)
    if layout.end is not None:
        if not layout.multi_picture:
            warn_of_trailing(len(data) - layout.end, name)
        return data
    if layout.size is None or layout.size[0] * layout.size[1] > max_pixels:
        return data  # the reader says why it is refused
    body = data.rstrip(b"\xff")
    complete = not layout.missing and _is_complete(body)
    cut_short(name, complete=complete, allowed=allow_truncated, filled="grey")
    return body + END


def layout_of(data: bytes) -> Layout:
    """Return the layout of a file, up to its end mark or the place of a cut."""
    layout, position, progressive = Layout(), 2, False
    try:
        while (match := MARKER.search(data, position)) is not None:
            marker, position = data[match.end() - 1], match.end()
            if marker == END_OF_IMAGE:
                layout.end = position
                return layout
            (length,) = struct.unpack_from(">H", data, position)
            segment = data[position + 2 : position + length]
            if marker in FRAMES:
                layout.size, progressive = struct.unpack_from(">HH", segment, 1), marker in PROGRESSIVE
                components = segment[6 : 6 + 3 * segment[5] : 3]
                layout.missing = {(own, i) for own in components for i in (range(64) if progressive else (0,))}
            elif marker == START_OF_SCAN:
                count = segment[0]
                first, last, bits = segment[1 + 2 * count : 4 + 2 * count]
                if not progressive or bits & 15 == 0:
                    indices = range(first, last + 1) if progressive else (0,)
                    layout.missing -= {(own, i) for own in segment[1 : 1 + 2 * count : 2] for i in indices}
            elif marker == APP2 and segment.startswith(MULTI_PICTURE):
                layout.multi_picture = True
            position += length
    except (struct.error, IndexError, ValueError):
        pass  # cut within a header
    return layout


def _is_complete(body: bytes) -> bool:
    """Return whether the last scan is whole: other bits behind it change no pixel."""
    try:
        one, other = (np.asarray(Image.open(io.BytesIO(body + after + END))) for after in (b"", OTHER_BITS))
        return np.array_equal(one, other)
    except Exception:  # the decoder found no image data
        return False
