"""PNG files: chunks, facts, and samples of 16 bits, which Pillow cuts."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from sdcodec.pixels.coded import CodePoints

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
SAMPLES = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
# First column and row, and distances, of the passes of Adam7 (PNG specification, 8.2).
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


class Chunk(NamedTuple):
    """A chunk of a PNG file.

    end: the offset behind it in the file; complete: the file has all its bytes; intact: its CRC is right.
    """

    kind: bytes
    data: bytes
    end: int
    complete: bool
    intact: bool


@dataclass(frozen=True)
class PngFacts:
    """The header and the chunks about colour.

    transparent: the samples of the transparent colour, grey or RGB, in `depth` bits.
    """

    width: int
    height: int
    depth: int
    colour_type: int
    interlaced: bool
    chunks: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def transparent(self) -> tuple[int, ...] | None:
        count = {GREY: 1, RGB: 3}.get(self.colour_type, 0)
        data = self.chunks.get(b"tRNS", b"")
        if not count or len(data) < 2 * count:
            return None
        return tuple(value & ((1 << self.depth) - 1) for value in struct.unpack_from(f">{count}H", data))

    @property
    def code_points(self) -> CodePoints | None:
        """The content of the chunk cICP; None if it is missing or not of RGB."""
        data = self.chunks.get(b"cICP", b"")
        return CodePoints(*data) if len(data) == 4 and data[2] == 0 else None

    @property
    def states_gamma(self) -> bool:
        """Whether gAMA or cHRM applies: other chunks about colour replace them."""
        replaced = {b"iCCP", b"sRGB"} & set(self.chunks)
        return not replaced and (self.gamma is not None or self.chromaticities is not None)

    @property
    def gamma(self) -> float | None:
        data = self.chunks.get(b"gAMA", b"")
        return (int.from_bytes(data, "big") / 100000 or None) if len(data) == 4 else None

    @property
    def chromaticities(self) -> tuple[float, ...] | None:
        """The coordinates x and y of red, green, blue and white."""
        data = self.chunks.get(b"cHRM", b"")
        if len(data) != 32:
            return None
        values = [value / 100000 for value in struct.unpack(">8I", data)]
        return (*values[2:], *values[:2])

    @property
    def raw_length(self) -> int:
        """Number of bytes of the filtered rows."""
        bits = self.depth * SAMPLES.get(self.colour_type, 4)
        passes = ADAM7 if self.interlaced else ((0, 0, 1, 1),)
        sizes = [(-(-max(self.width - x, 0) // dx), -(-max(self.height - y, 0) // dy)) for x, y, dx, dy in passes]
        return sum(rows * (1 + (columns * bits + 7) // 8) for columns, rows in sizes if columns)


def chunks_of(data: bytes) -> Iterator[Chunk]:
    """Yield the chunks up to the end mark, or up to the place where the file is cut."""
    position = len(SIGNATURE)
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        body, end = position + 8, position + 12 + length
        content = data[body : body + length]
        complete = end <= len(data)
        intact = complete and zlib.crc32(content, zlib.crc32(kind)) == struct.unpack_from(">I", data, body + length)[0]
        yield Chunk(kind, content, end, complete, intact)
        if kind == b"IEND":
            return
        position = end


def facts_of(data: bytes) -> PngFacts | None:
    """Return the facts of a PNG file, None if it has no header."""
    found: dict[bytes, bytes] = {}
    for chunk in chunks_of(data):
        if chunk.kind == b"IDAT" or not chunk.complete:
            break
        if chunk.intact:
            found.setdefault(chunk.kind, chunk.data)
    header = found.pop(b"IHDR", b"")
    if len(header) != 13:
        return None
    width, height, depth, colour_type, _, _, interlace = struct.unpack(">IIBBBBB", header)
    return PngFacts(width, height, depth, colour_type, interlace == 1, found)


def sixteen_bit(data: bytes, facts: PngFacts) -> NDArray[np.uint16] | None:
    """Return the samples of 16-bit RGB, RGBA and grey with alpha.

    They are uint16 `[H, W, 2, 3 or 4]`; other kinds give None.
    """
    if facts.depth != 16 or facts.colour_type not in (RGB, RGBA, GREY_ALPHA):
        return None
    if facts.colour_type == GREY_ALPHA:
        # Such a pixel has the four bytes of an 8-bit RGBA pixel, and the same filters.
        first = 8 + 8 + 13 + 4
        header = struct.pack(">IIBBBBB", facts.width, facts.height, 8, RGBA, 0, 0, facts.interlaced)
        image = PngImageFile(io.BytesIO(SIGNATURE + chunk_bytes(b"IHDR", header) + data[first:]))
        halves = np.asarray(image).astype(np.uint16)
        return _joined(halves[:, :, 0::2], halves[:, :, 1::2])
    planes = []
    for order in "BL":  # Pillow takes the first byte of a sample of 16 bits as its order says
        image = PngImageFile(io.BytesIO(data))
        name = f"{'RGB' if facts.colour_type == RGB else 'RGBA'};16{order}"
        image.tile = [tile._replace(args=name) for tile in image.tile]
        planes.append(np.asarray(image).astype(np.uint16))
    return _joined(*planes)


def _joined(high: NDArray[np.uint16], low: NDArray[np.uint16]) -> NDArray[np.uint16]:
    result: NDArray[np.uint16] = high * np.uint16(256) + low
    return result


def chunk_bytes(kind: bytes, data: bytes) -> bytes:
    """Return a chunk with its length and CRC."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


def transparent_colour(values: NDArray[np.uint16], colour: tuple[int, ...]) -> Image.Image:
    """Return the alpha of samples `[H, W, 1 or 3]` with one transparent colour."""
    matches = np.all(values == np.array(colour, values.dtype), axis=2)
    return Image.fromarray(np.where(matches, 0, 255).astype(np.uint8))
