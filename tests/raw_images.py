"""Small PNG and TIFF files of kinds that Pillow does not write."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SIGNATURE = b"\x89PNG\r\n\x1a\n"
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of each PNG colour type
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def packed(values: NDArray[np.integer], depth: int, *, little: bool = False) -> bytes:
    """Pack the samples of one row, the first in the highest bits."""
    flat = values.reshape(-1)
    if depth in (8, 16, 32):
        return flat.astype(f"{'<' if little else '>'}u{depth // 8}").tobytes()
    bits = (flat[:, None] >> np.arange(depth - 1, -1, -1)) & 1
    return np.packbits(bits.astype(np.uint8)).tobytes()


def png_bytes(
    values: NDArray[np.integer],
    depth: int,
    colour_type: int,
    *,
    interlaced: bool = False,
    before: Sequence[tuple[bytes, bytes]] = (),
) -> bytes:
    """Write samples `[H, W]` or `[H, W, C]` as PNG without filters.

    before: chunks before the image data.
    """
    height, width = values.shape[:2]
    passes = [values[y::dy, x::dx] for x, y, dx, dy in ADAM7] if interlaced else [values]
    raw = b"".join(b"\0" + packed(row, depth) for part in passes if part.shape[1] for row in part)
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, interlaced)
    body = chunk(b"IHDR", header) + b"".join(chunk(*own) for own in before) + chunk(b"IDAT", zlib.compress(raw))
    return SIGNATURE + body + chunk(b"IEND", b"")


def tiff_bytes(
    values: NDArray[np.integer],
    bits: int,
    photometric: int,
    *,
    extra: Sequence[tuple[int, int, int]] = (),
    separate: bool = False,
) -> bytes:
    """Write samples `[H, W]` or `[H, W, C]` as little-endian uncompressed TIFF.

    extra: tag, type and value of more entries, with one value each.
    """
    height, width = values.shape[:2]
    planes = values.reshape(height, width, -1)
    count = planes.shape[2]
    parts = [planes[:, :, i] for i in range(count)] if separate else [planes]
    strips = [b"".join(packed(row, bits, little=True) for row in part) for part in parts]
    entries = [(256, 4, [width]), (257, 4, [height]), (258, 3, [bits] * count), (259, 3, [1]), (262, 3, [photometric])]
    entries += [(277, 3, [count]), (278, 4, [height]), (279, 4, [len(strip) for strip in strips])]
    entries += [(284, 3, [2 if separate else 1]), (273, 4, [0] * len(strips))]
    entries += [(tag, kind, [value]) for tag, kind, value in extra]
    entries.sort()
    after = 8 + 2 + 12 * len(entries) + 4
    lists = sum(
        len(own) * (2 if kind == 3 else 4) for _, kind, own in entries if len(own) * (2 if kind == 3 else 4) > 4
    )
    offsets = [after + lists + sum(map(len, strips[:i])) for i in range(len(strips))]
    directory, outside = b"", b""
    for tag, kind, own in entries:
        content = b"".join(struct.pack("<H" if kind == 3 else "<I", v) for v in (offsets if tag == 273 else own))
        if len(content) > 4:
            place = struct.pack("<I", after + len(outside))
            outside += content
        else:
            place = content.ljust(4, b"\0")
        directory += struct.pack("<HHI", tag, kind, len(own)) + place
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    return head + directory + struct.pack("<I", 0) + outside + b"".join(strips)
