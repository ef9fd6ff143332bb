"""Container: the `.sdc` file, built and parsed, as `docs/format.md` specifies it.

Pure Python, without networks.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, replace
from typing import IO

from sdcodec.chunk_reader import CHECK_BYTES, END_MARK, ChunkReader, Latents, check, leb128
from sdcodec.constants import BLOCK_LATENTS, HIGHEST_QUALITY_INDEX
from sdcodec.errors import FormatError, UnsupportedVersionError

MAGIC = b"\x89SDC"
VERSION = 2
FACTORS = (8, 16, 32, 4)  # pixels per latent, by the two lowest bits of the flags
GRID_MULTIPLE = 4  # images are padded to multiples of this many latents
ALPHA_FLAG = 4
SIZE_LIMIT = 1 << 24
MOST_BYTES_PER_PIXEL = 1.5  # of latents; decoding time grows with them, and noise in black and white needs 0.93
HEADER_BYTES = 18  # at most
OPENING_BYTES = 8  # of a chunk, at most: letter, length and check
PIECE = 1 << 20  # bytes read at once: a damaged length must not allocate its memory

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
    `factor` pixels per latent, one of FACTORS. `alpha`: whether the file has an alpha channel.
    """

    fingerprint: bytes
    quality_index: int
    width: int
    height: int
    version: int = VERSION
    factor: int = 8
    alpha: bool = False


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

    A file with a `palette` has no blocks. Of a file that was read, `trailing` counts the bytes behind its end; of one
    that was recovered, `damaged` holds the indices of unreadable blocks and `lost` says what else is missing.
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
    trailing: int = 0
    damaged: frozenset[int] = frozenset()
    lost: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Set the header's flag for alpha."""
        object.__setattr__(self, "header", replace(self.header, alpha=self.alpha is not None))

    def chunks(self) -> list[Chunk]:
        """Return the chunks in their order in the file: small ones first, then pixels."""
        known = (("i", self.icc), ("e", self.exif), ("x", self.xmp), ("n", self.deviations))
        extras = [Chunk(tag, payload) for tag, payload in known if payload is not None]
        main = (
            Chunk("L", _index(self.blocks) + b"".join(self.blocks))
            if self.palette is None
            else Chunk("P", self.palette)
        )
        return [*extras, *self.unknown, main, *([] if self.alpha is None else [Chunk("A", self.alpha)])]

    def to_bytes(self) -> bytes:
        """Return the file's bytes."""
        header = self.header
        flags = FACTORS.index(header.factor) | ALPHA_FLAG * header.alpha
        start = b"".join(
            [
                MAGIC,
                bytes([header.version << 4 | flags]),
                header.fingerprint,
                bytes([header.quality_index]),
                leb128(header.width),
                leb128(header.height),
            ]
        )
        parts = [start, check(start)]
        for chunk in self.chunks():
            opening = chunk.tag.encode("ascii") + leb128(len(chunk.payload))
            checked = _index(self.blocks) if chunk.tag == "L" else chunk.payload
            parts += [opening, check(opening + checked), chunk.payload]
        body = b"".join([*parts, bytes([END_MARK])])
        return body + zlib.crc32(body).to_bytes(4, "big")

    @classmethod
    def from_bytes(cls, data: bytes, *, recover: bool = False) -> Container:
        """Parse a whole file; bytes behind its end are counted and ignored.

        recover: read what is intact of a damaged or cut file: `damaged` and `lost` say what is not.

        Raises UnsupportedVersionError for another version or a critical chunk of the future, FormatError for anything
        else that is not as the specification says; with `recover` only if nothing can be read.
        """
        header, position = read_header(data)
        reader = ChunkReader(data, position, recover=recover)
        found: dict[str, bytes] = {}
        unknown: list[Chunk] = []
        latents: Latents | None = None
        count = block_count(header.width, header.height, header.factor)
        while (tag := reader.tag()) is not None:
            if tag == "L":
                if latents is not None:
                    raise FormatError("damaged: two chunks 'latents'")
                latents = reader.latents(count, most_latent_bytes(header))
                continue
            payload = reader.payload(tag, CHUNK_NAMES.get(tag, "unknown"))
            if payload is None:
                continue
            if tag in found or tag in {chunk.tag for chunk in unknown}:
                raise FormatError(f"damaged: two chunks {CHUNK_NAMES.get(tag, tag)!r}")
            if tag not in CHUNK_NAMES:
                if tag.isupper():
                    raise UnsupportedVersionError(
                        f"chunk {tag!r} is needed to read this file and unknown here: a newer sdcodec may read it"
                    )
                unknown.append(Chunk(tag, payload))
            else:
                found[tag] = payload
        if (latents is None) == ("P" not in found):
            raise FormatError("damaged: there are no latents in it, or two kinds of them")
        if header.alpha != ("A" in found):
            reader.complain("the header and the chunks differ about an alpha channel", "the alpha channel")
        alpha, icc, exif, xmp, deviations, palette = (found.get(tag) for tag in "AiexnP")
        blocks, damaged = latents or ((), frozenset())
        if blocks and len(damaged) == len(blocks):
            raise FormatError("damaged: no block of latents is intact; get the file again")
        lost = tuple(dict.fromkeys(reader.lost))
        return cls(
            header, blocks, alpha, icc, exif, xmp, tuple(unknown), deviations, palette, reader.trailing, damaged, lost
        )


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


def most_latent_bytes(header: Header) -> int:
    """Return the largest size of all blocks together, in bytes."""
    rows, columns = latent_grid(header.width, header.height, header.factor)
    return int(MOST_BYTES_PER_PIXEL * rows * columns * header.factor**2)


def block_count(width: int, height: int, factor: int = 8) -> int:
    """Return the number of blocks for an image of this size in pixels."""
    rows, columns = block_grid(width, height, factor)
    return rows * columns


def read_header(data: bytes) -> tuple[Header, int]:
    """Read a file's header; return it and the position behind it.

    The first HEADER_BYTES bytes of a file are enough. Raises FormatError and UnsupportedVersionError.
    """
    if data[: len(MAGIC)] != MAGIC:
        raise FormatError("not an .sdc file: it does not begin with the four bytes 89 53 44 43")
    if len(data) > len(MAGIC) and (version := data[len(MAGIC)] >> 4) != VERSION:
        whose = "of an unreleased sdcodec: encode the picture again" if version == 1 else "a newer sdcodec may read it"
        raise UnsupportedVersionError(f"format version {version}; this program reads version {VERSION}: {whose}")
    reader = ChunkReader(data, len(MAGIC))
    flags = reader.take(1)[0] & 0x0F
    fingerprint, quality_index = reader.take(4), reader.take(1)[0]
    width, height = reader.leb128(), reader.leb128()
    start = data[: reader.position]
    if reader.take(CHECK_BYTES) != check(start):
        raise FormatError("damaged: the header does not match its checksum; get the file again")
    if flags >= 2 * ALPHA_FLAG:
        raise UnsupportedVersionError("flags of a later version are set: a newer sdcodec may read it")
    if quality_index > HIGHEST_QUALITY_INDEX:
        raise FormatError(f"damaged: quality {quality_index / 2:g} is above {HIGHEST_QUALITY_INDEX // 2}")
    if not (1 <= width <= SIZE_LIMIT and 1 <= height <= SIZE_LIMIT):
        raise FormatError(f"damaged: {width}x{height} is no size of a picture")
    factor = FACTORS[flags % ALPHA_FLAG]
    header = Header(fingerprint, quality_index, width, height, VERSION, factor, bool(flags & ALPHA_FLAG))
    return header, reader.position


def read_prefix(file: IO[bytes]) -> tuple[Header, dict[str, bytes]]:
    """Read header and ancillary chunks in front of the pixels, by their letters.

    file: open for binary reading, at the beginning of the data; its pixels are not read. The first damaged chunk ends
    the search: `Container.from_bytes` reports it. Raises FormatError and UnsupportedVersionError as `read_header`.
    """
    data = read_up_to(file, HEADER_BYTES)
    header, position = read_header(data)
    rest, found = data[position:], dict[str, bytes]()
    while True:
        rest += read_up_to(file, OPENING_BYTES - len(rest))
        tag = chr(rest[0]) if rest else ""
        if not (tag.isascii() and tag.islower()):
            return header, found
        reader = ChunkReader(rest, 1)
        try:
            end = reader.leb128() + CHECK_BYTES + reader.position
            rest += read_up_to(file, end - len(rest))
            reader = ChunkReader(rest, 1)
            payload = reader.payload(tag, CHUNK_NAMES.get(tag, "unknown"))
        except FormatError:
            return header, found
        if payload is not None and tag in CHUNK_NAMES:
            found[tag] = payload
        rest = rest[reader.position :]


def read_up_to(file: IO[bytes], count: int | None = None) -> bytes:
    """Read `count` bytes, or fewer at the end of the file; None: all.

    Files that return less than was asked for, such as sockets, are read in several calls.
    """
    pieces, missing = [], count
    while missing is None or missing > 0:
        piece = file.read(PIECE if missing is None else min(missing, PIECE))
        if not piece:
            break
        pieces.append(piece)
        missing = None if missing is None else missing - len(piece)
    return b"".join(pieces)


def _index(blocks: tuple[bytes, ...]) -> bytes:
    """Return length and check of each block; the length of a lone one is left out."""
    if len(blocks) == 1:
        return check(blocks[0])
    return b"".join(leb128(len(block)) + check(block) for block in blocks)
