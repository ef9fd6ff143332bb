"""Mutations of `.sdc` files and texts, a module for `fuzz.py`.

Checksums are made right again. The same seed gives the same file.
"""

from __future__ import annotations

import random
import zlib

from sdcodec.chunk_reader import check, leb128
from sdcodec.container import MAGIC, Container, block_count

NUMBERS = (0, 1, 2, 3, 4, 31, 32, 33, 63, 64, 65, 127, 128, 255, 256, 511, 512, 513, 16383, 16384, 1 << 20, 1 << 24)
EXTREMES = (*NUMBERS, (1 << 24) + 1, (1 << 28) - 1, (1 << 32) - 1, (1 << 35) - 1)
ENTITIES = b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]><x:xmpmeta>&b;&b;&b;</x:xmpmeta>'
PAYLOADS = (
    b"",
    b"\0",
    b"\xff" * 64,
    ENTITIES,
    b"<?xpacket begin='\xef\xbb\xbf'?>" + b"<x>" * 2000,
    b"II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0\xff\xff\xff\xff\x01\0\0\0" * 20,
    b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x04\0\0\0\x01\0\0\0\x08\0\0\0\x08",
    b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0" + bytes(4),
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\xff\xff\xff\xff\xff\xff\xff\xff\x08\0\0\0\0",
    b"\0\0\x02\x0clcms\x02\x10\0\0mntrRGB XYZ " + b"\0" * 500,
)
Chunks = list[tuple[bytes, bytes]]  # letters and contents


def mutated(seed: int, sources: list[bytes]) -> bytes:
    """Return a file made from one of `sources` by a few mutations."""
    rng = random.Random(seed)
    data = rng.choice(sources)
    container = Container.from_bytes(data)
    header = container.header
    fields = {
        "flags": data[4] & 0x07,
        "fingerprint": header.fingerprint,
        "quality": header.quality_index,
        "width": header.width,
        "height": header.height,
    }
    chunks: Chunks = [(chunk.tag.encode("ascii"), chunk.payload) for chunk in container.chunks()]
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
        rng.choice((_change_header, _change_chunks, _change_payload, _change_payload, _change_payload))(
            rng, fields, chunks
        )
    if rng.random() < 0.5:
        flag = any(letter == b"A" for letter, _ in chunks)
        fields["flags"] = fields["flags"] & ~4 | 4 * flag
    built = _built(rng, fields, chunks, container)
    return _damaged(rng, built) if rng.random() < 0.03 else built


def _damaged(rng: random.Random, data: bytes) -> bytes:
    """Change a bit anywhere, or cut the file; checksums stay as they are."""
    place = rng.randrange(len(data))
    if rng.random() < 0.3:
        return data[:place]
    return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]


def _change_header(rng: random.Random, fields: dict[str, int | bytes], chunks: Chunks) -> None:
    name = rng.choice(("flags", "quality", "width", "height", "width", "height", "fingerprint"))
    if name == "fingerprint":
        fields[name] = rng.randbytes(4)
    elif name in ("width", "height"):
        fields[name] = rng.choice(EXTREMES) if rng.random() < 0.5 else rng.randrange(1, 600)
    else:
        fields[name] = rng.randrange(16 if name == "flags" else 256)


def _change_chunks(rng: random.Random, fields: dict[str, int | bytes], chunks: Chunks) -> None:
    place = rng.randrange(len(chunks) + 1)
    way = rng.randrange(4)
    if way == 0 or not chunks:
        letter = rng.choice((b"i", b"e", b"x", b"n", b"A", b"P", b"L", b"z", b"Q", bytes([rng.randrange(256)])))
        chunks.insert(place, (letter, rng.choice((*PAYLOADS, rng.randbytes(rng.randrange(200))))))
    elif way == 1:
        del chunks[rng.randrange(len(chunks))]
    elif way == 2:
        chunks.insert(place, rng.choice(chunks))
    else:
        rng.shuffle(chunks)


def _change_payload(rng: random.Random, fields: dict[str, int | bytes], chunks: Chunks) -> None:
    if not chunks:
        return
    index = rng.randrange(len(chunks))
    letter, payload = chunks[index]
    changed = bytearray(payload)
    way = rng.randrange(6)
    place = rng.randrange(len(changed) + 1)
    if way == 0 and changed:
        for _ in range(rng.choice((1, 1, 2, 8))):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    elif way == 1:
        del changed[place:]
    elif way == 2:
        changed[place:place] = rng.randbytes(rng.choice((1, 2, 16, 300)))
    elif way == 3:
        changed[place:place] = leb128(rng.choice(EXTREMES))
    elif way == 4:
        changed[place : place + 4] = rng.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0"))
    else:
        changed = bytearray(rng.choice(PAYLOADS))
    chunks[index] = letter, bytes(changed)


def _built(rng: random.Random, fields: dict[str, int | bytes], chunks: Chunks, container: Container) -> bytes:
    numbers = {name: value for name, value in fields.items() if isinstance(value, int)}
    start = MAGIC + bytes([0x20 | numbers["flags"]])
    start += bytes(fields["fingerprint"]) + bytes([numbers["quality"]])  # type: ignore[arg-type]
    start += leb128(numbers["width"]) + leb128(numbers["height"])
    body = start + check(start)
    factor = (8, 16, 32, 4)[numbers["flags"] & 3]
    count = block_count(max(1, numbers["width"]), max(1, numbers["height"]), factor)
    for letter, payload in chunks:
        length = _number(rng, len(payload) if rng.random() < 0.97 else rng.choice(EXTREMES))
        if letter == b"L":
            payload, checked = _with_index(rng, payload, count, len(container.blocks))
            length = _number(rng, len(payload))
        else:
            checked = payload
        body += letter + length + check(letter + length + checked) + payload
    body += b"\0"
    return body + zlib.crc32(body).to_bytes(4, "big") + (b"" if rng.random() < 0.95 else rng.randbytes(5))


def _number(rng: random.Random, value: int) -> bytes:
    """Return LEB128, once in a hundred with zeros that the shortest form lacks."""
    number = leb128(value)
    return (
        number if rng.random() < 0.99 else number[:-1] + bytes([number[-1] | 0x80]) + b"\x80" * rng.randrange(5) + b"\0"
    )


def _with_index(rng: random.Random, payload: bytes, count: int, before: int) -> tuple[bytes, bytes]:
    """Give the content of L an index for `count` blocks.

    Returns it and the part that the chunk's check covers.
    """
    rest = payload[2 if before == 1 else 4 * before :]
    if count == 1:
        own = check(rest) if rng.random() < 0.99 else rng.randbytes(2)
        return own + rest, own
    if count > 500:
        return payload, payload[:100]
    sizes = [len(rest) // count] * count
    sizes[-1] += len(rest) - sum(sizes)
    index, position = b"", 0
    for size in sizes:
        index += leb128(size if rng.random() < 0.995 else rng.choice(EXTREMES)) + check(
            rest[position : position + size]
        )
        position += size
    return index + rest, index


def changed_text(seed: int, text: bytes, span: int = 1 << 30) -> bytes:
    """Return text with a few bytes, lines or numbers changed.

    Changes begin in its first `span` bytes.
    """
    rng = random.Random(seed)
    data = bytearray(text)
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.randrange(min(span, len(data)) + 1)
        way = rng.randrange(5)
        if way == 0 and place < len(data):
            data[place] = rng.randrange(256)
        elif way == 1:
            del data[place : place + rng.choice((1, 5, 50))]
        elif way == 2:
            data[place:place] = rng.choice((b"[", b"{", b'"', b"1e999", b"-1", b"null", b"NaN", b"= ", b"\n", b"\xff"))
        elif way == 3:
            other = rng.randrange(len(data) + 1)
            data[place:place] = data[other : other + 40]
        else:
            del data[place:]
    return bytes(data)
