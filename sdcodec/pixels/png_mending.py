"""PNG files with damaged chunks, without their end, or followed by other bytes."""

from __future__ import annotations

import zlib

from sdcodec.errors import ImageError, warn
from sdcodec.pixels.damage import cut_short, warn_of_trailing
from sdcodec.pixels.png import SIGNATURE, Chunk, PngFacts, chunk_bytes, chunks_of, facts_of

ANCILLARY = 0x20  # this bit of the first letter
# Ancillary chunks and their least lengths, below which Pillow refuses the file.
LEAST_LENGTHS = {b"cHRM": 32, b"gAMA": 4, b"pHYs": 9, b"sRGB": 1}


def mended(data: bytes, name: str, *, allow_truncated: bool, max_pixels: int) -> bytes:
    """Return a PNG that Pillow reads, with a warning for each kind of damage.

    Damaged ancillary chunks are left out. Raises ImageError for damaged or missing image data, unless
    `allow_truncated`: missing parts are then black or transparent.
    """
    chunks = list(chunks_of(data))
    facts = facts_of(data)
    if facts is None or facts.width * facts.height > max_pixels:
        return data  # the reader says why it is refused
    left_out = {chunk.kind: None for chunk in chunks if _is_left_out(chunk)}
    for kind in left_out:
        text = kind.decode("ascii", "backslashreplace")
        warn(f"its chunk {text} is damaged; the image is read without it", name)
    if any(chunk.kind == b"PLTE" and not chunk.intact for chunk in chunks):
        raise ImageError(f"{name}: its palette is damaged; get the file again")
    has_end = chunks[-1].kind == b"IEND" and chunks[-1].complete
    if has_end:
        warn_of_trailing(len(data) - chunks[-1].end, name)
    kept = [chunk for chunk in chunks if not _is_left_out(chunk)]
    parts = [chunk for chunk in kept if chunk.kind == b"IDAT"]
    if has_end and all(part.intact for part in parts) and _is_full(parts, facts.raw_length):
        return data if not left_out else _joined(kept)
    return _with_image_data(data, kept, facts, name, allow_truncated, has_end)


def _with_image_data(
    data: bytes, kept: list[Chunk], facts: PngFacts, name: str, allow_truncated: bool, has_end: bool
) -> bytes:
    """Return the file with image data of full length, or refuse it."""
    parts = [chunk for chunk in kept if chunk.kind == b"IDAT"]
    rows, verified = _inflated(b"".join(part.data for part in parts), facts.raw_length)
    is_full = len(rows) == facts.raw_length
    # The last chunk may lack its CRC: the sum of the zlib stream is enough then.
    complete = is_full and all(part.intact or (verified and not part.complete) for part in parts)
    filled = None if is_full else "transparent" if facts.colour_type in (4, 6) else "black"
    cut_short(name, complete=complete, allowed=allow_truncated, filled=filled)
    before = []
    for chunk in kept:
        if chunk.kind == b"IDAT" or not chunk.complete:
            break
        before.append(chunk)
    body = b"".join(chunk_bytes(chunk.kind, chunk.data) for chunk in before)
    image_data = zlib.compress(rows + bytes(facts.raw_length - len(rows)), 1)
    return SIGNATURE + body + chunk_bytes(b"IDAT", image_data) + chunk_bytes(b"IEND", b"")


def _is_left_out(chunk: Chunk) -> bool:
    """Return whether a chunk is ancillary and damaged; Pillow may refuse it."""
    usable = chunk.intact and len(chunk.data) >= LEAST_LENGTHS.get(chunk.kind, 0)
    return chunk.complete and not usable and bool(chunk.kind[0] & ANCILLARY)


def _joined(chunks: list[Chunk]) -> bytes:
    return SIGNATURE + b"".join(chunk_bytes(chunk.kind, chunk.data) for chunk in chunks)


def _is_full(parts: list[Chunk], length: int) -> bool:
    """Return whether the image data has `length` bytes.

    Pillow takes a shorter stream without an error.
    """
    inflater, count = zlib.decompressobj(), 0
    try:
        for part in parts:
            pending = part.data
            while pending and count < length:
                count += len(inflater.decompress(pending, 1 << 16))
                pending = inflater.unconsumed_tail
        return count >= length or count + len(inflater.flush()) >= length
    except zlib.error:
        return False


def _inflated(stream: bytes, length: int) -> tuple[bytes, bool]:
    """Return the first `length` bytes of a zlib stream, and whether its sum is right.

    A stream that is cut or damaged gives fewer bytes.
    """
    inflater = zlib.decompressobj()
    parts, count = [], 0
    piece = 1 << 10  # an error loses the piece in which it lies
    for start in range(0, len(stream), piece):
        try:
            part = inflater.decompress(stream[start : start + piece], length + 1 - count)
        except zlib.error:
            break
        parts.append(part)
        count += len(part)
        if count > length or inflater.eof:
            break
    return b"".join(parts)[:length], inflater.eof
