"""Container: the `.sdc` file, built and parsed, as `docs/format.md` specifies it.

Pure Python, without networks.
"""

from __future__ import annotations

import binascii
import zlib
from dataclasses import dataclass, field

from sdcodec.constants import BLOCK_LATENTS, HIGHEST_QUALITY_INDEX
from sdcodec.errors import FormatError, UnsupportedVersionError

MAGIC = b"\x89SDC"
VERSION = 1
FACTORS = (8, 16, 32, 4)  # pixels per latent, by the two lowest bits of the flags
GRID_MULTIPLE = 4  # images are padded to multiples of this many latents
SIZE_LIMIT = 1 << 24

CHUNK_NAMES = {
    "L": "latents",
    "P": "palette",
    "A": "alpha",
    "i": "ICC profile",
    "e": "EXIF",
    "x": "XMP",
    "n": "error deviation",
}


@dataclass(frozen=True)
class Header:
    """Header of a file.

    `quality_index` is 0..200, twice the quality; `fingerprint` is 4 bytes. Sizes are in pixels, with `factor` x
    `factor` pixels per latent, one of FACTORS.
    """

    fingerprint: bytes
    quality_index: int
    width: int
    height: int
    version: int = VERSION
    factor: int = 8


@dataclass(frozen=True)
class Chunk:
    """A tagged part of the file; upper-case tags are critical.

    Readers that do not know a critical chunk have to refuse the file.
    """

    tag: str
    payload: bytes

    @property
    def name(self) -> str:
        """Name of the tag."""
        return CHUNK_NAMES.get(self.tag, "unknown")


@dataclass(frozen=True)
class Container:
    """A whole file: header, entropy-coded blocks in raster order, and other chunks.

    A file with a `palette` has no blocks.
    """

    header: Header
    blocks: tuple[bytes, ...]
    alpha: bytes | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    unknown: tuple[Chunk, ...] = field(default=())
    deviations: bytes | None = None  # of the latents' error, for denoising: a byte per channel group
    palette: bytes | None = None

    def chunks(self) -> list[Chunk]:
        """Return the chunks in their order in the file."""
        known = (("A", self.alpha), ("i", self.icc), ("e", self.exif), ("x", self.xmp), ("n", self.deviations))
        extras = [Chunk(tag, payload) for tag, payload in known if payload is not None]
        latents = Chunk("L", _pack_blocks(self.blocks)) if self.palette is None else Chunk("P", self.palette)
        return [latents, *extras, *self.unknown]

    def to_bytes(self) -> bytes:
        """Return the file's bytes."""
        header = self.header
        flags = FACTORS.index(header.factor)
        parts = [MAGIC, bytes([header.version << 4 | flags]), header.fingerprint, bytes([header.quality_index])]
        parts += [_leb128(header.width), _leb128(header.height)]
        for chunk in self.chunks():
            parts += [chunk.tag.encode("ascii"), _leb128(len(chunk.payload)), chunk.payload]
        body = b"".join(parts)
        return body + zlib.crc32(body).to_bytes(4, "big")

    @classmethod
    def from_bytes(cls, data: bytes) -> Container:
        """Parse a whole file.

        Raises UnsupportedVersionError for a version or a critical chunk of the future, FormatError for anything else
        that is not as the specification says: no magic, cut short, bytes appended, a checksum that does not match.
        """
        if data[: len(MAGIC)] != MAGIC:
            raise FormatError("not an .sdc file: it does not begin with the four bytes 89 53 44 43")
        if len(data) > len(MAGIC) and data[4] >> 4 != VERSION:
            raise UnsupportedVersionError(
                f"format version {data[4] >> 4}; this program reads version {VERSION}: a newer sdcodec may read it"
            )
        if len(data) < len(MAGIC) + 4 or zlib.crc32(data[:-4]).to_bytes(4, "big") != data[-4:]:
            raise FormatError(
                "damaged: the checksum does not match (cut short, changed, or with bytes appended); get it again"
            )
        reader = _Reader(data[:-4], len(MAGIC))
        header = _read_header(reader)
        found: dict[str, bytes] = {}
        unknown: list[Chunk] = []
        while not reader.at_end:
            tag = chr(reader.take(1)[0])
            payload = reader.take(reader.leb128())
            if not (tag.isascii() and tag.isalpha()):
                raise FormatError(f"damaged: {ord(tag):#04x} is no letter of a chunk; get the file again")
            if tag not in CHUNK_NAMES:
                if tag.isupper():
                    raise UnsupportedVersionError(
                        f"chunk {tag!r} is needed to read this file and unknown here: a newer sdcodec may read it"
                    )
                unknown.append(Chunk(tag, payload))
            elif tag in found:
                raise FormatError(f"damaged: two chunks {CHUNK_NAMES[tag]!r}")
            else:
                found[tag] = payload
        if ("L" in found) == ("P" in found):
            raise FormatError("damaged: there are no latents in it, or two kinds of them")
        blocks: tuple[bytes, ...] = ()
        if "L" in found:
            blocks = _unpack_blocks(found["L"], block_count(header.width, header.height, header.factor))
        alpha, icc, exif, xmp, deviations, palette = (found.get(tag) for tag in "AiexnP")
        return cls(header, blocks, alpha, icc, exif, xmp, tuple(unknown), deviations, palette)


def padded_size(size: int, factor: int = 8) -> int:
    """Pad a side in pixels up to a multiple of 4 latents."""
    multiple = GRID_MULTIPLE * factor
    return -(-size // multiple) * multiple


def latent_grid(width: int, height: int, factor: int = 8) -> tuple[int, int]:
    """Return rows and columns of latents for an image of this size in pixels."""
    return padded_size(height, factor) // factor, padded_size(width, factor) // factor


def block_grid(width: int, height: int, factor: int = 8) -> tuple[int, int]:
    """Return rows and columns of blocks for an image of this size in pixels."""
    rows, columns = latent_grid(width, height, factor)
    return -(-rows // BLOCK_LATENTS), -(-columns // BLOCK_LATENTS)


def block_count(width: int, height: int, factor: int = 8) -> int:
    """Return the number of blocks for an image of this size in pixels."""
    rows, columns = block_grid(width, height, factor)
    return rows * columns


def _read_header(reader: _Reader) -> Header:
    version_and_flags = reader.take(1)[0]
    flags = version_and_flags & 0x0F
    if flags >= len(FACTORS):
        raise UnsupportedVersionError("flags of a later version are set: a newer sdcodec may read it")
    fingerprint, quality_index = reader.take(4), reader.take(1)[0]
    width, height = reader.leb128(), reader.leb128()
    if quality_index > HIGHEST_QUALITY_INDEX:
        raise FormatError(f"damaged: quality {quality_index / 2:g} is above {HIGHEST_QUALITY_INDEX // 2}")
    if not (1 <= width <= SIZE_LIMIT and 1 <= height <= SIZE_LIMIT):
        raise FormatError(f"damaged: {width}x{height} is no size of a picture")
    return Header(fingerprint, quality_index, width, height, version_and_flags >> 4, FACTORS[flags])


def _pack_blocks(blocks: tuple[bytes, ...]) -> bytes:
    if len(blocks) == 1:
        return blocks[0]
    return b"".join(_leb128(len(block)) + _check(block) + block for block in blocks)


def _unpack_blocks(payload: bytes, count: int) -> tuple[bytes, ...]:
    if count == 1:
        return (payload,)
    if 3 * count > len(payload):  # before anything is made that is as long as a damaged header says
        raise FormatError(f"damaged: {len(payload)} bytes cannot hold {count} blocks")
    reader = _Reader(payload, 0)
    blocks = []
    for index in range(count):
        length, check = reader.leb128(), reader.take(2)
        block = reader.take(length)
        if _check(block) != check:
            raise FormatError(f"damaged: block {index} does not match its checksum")
        blocks.append(block)
    if not reader.at_end:
        raise FormatError("damaged: bytes follow the last block")
    return tuple(blocks)


def _check(block: bytes) -> bytes:
    """Return the CRC-16/CCITT-FALSE, big-endian."""
    return binascii.crc_hqx(block, 0xFFFF).to_bytes(2, "big")


def _leb128(value: int) -> bytes:
    out = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


class _Reader:
    """Reader that takes bytes from the front and never beyond the end."""

    def __init__(self, data: bytes, position: int) -> None:
        self._data, self._position = data, position

    @property
    def at_end(self) -> bool:
        return self._position == len(self._data)

    def take(self, count: int) -> bytes:
        if count > len(self._data) - self._position:
            raise FormatError("damaged: it ends too early")
        self._position += count
        return self._data[self._position - count : self._position]

    def leb128(self) -> int:
        value = 0
        for place in range(5):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << (7 * place)
            if not byte & 0x80:
                if place and not byte:
                    raise FormatError("damaged: a number is written with more bytes than it needs")
                return value
        raise FormatError("damaged: a number is longer than five bytes")
