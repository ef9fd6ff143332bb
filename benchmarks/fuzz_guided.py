"""Attack the parsers with files that coverage guides, with right checks.

    pip install atheris
    python benchmarks/fuzz_guided.py FOLDER -max_total_time=480

FOLDER keeps the files that reached new code; it begins with small golden ones. Other arguments are libFuzzer's.
`fuzz.parse` reads each file, and only the library's typed errors may come. Atheris is no dependency of the project.
"""

from __future__ import annotations

import sys
import warnings
import zlib
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["sdcodec"]):
    import fuzz
    from sdcodec.chunk_reader import CHECK_BYTES, END_MARK, ChunkReader, check
    from sdcodec.container import MAGIC, VERSION, block_count
    from sdcodec.errors import FormatError

LARGEST_SEED = 6000  # bytes


def repaired(data: bytes) -> bytes:
    """Return the file with right checks as far as it can be read, and an end.

    The magic and the version are made right, too.
    """
    data = MAGIC + bytes([VERSION << 4 | data[4] & 15 if len(data) > 4 else VERSION << 4]) + data[5:]
    reader = ChunkReader(data, len(MAGIC))
    made = b""
    try:
        flags = reader.take(6)[0]
        width, height = reader.leb128(), reader.leb128()
        made = data[: reader.position] + check(data[: reader.position])
        reader.take(CHECK_BYTES)
        count = min(64, block_count(max(1, width), max(1, height), (8, 16, 32, 4)[flags & 3]))
        while data[reader.position] != END_MARK:
            start = reader.position
            letter, length = reader.take(1), reader.leb128()
            opening = data[start : reader.position]
            reader.take(CHECK_BYTES)
            payload = reader.take(length)
            checked = payload
            if letter == b"L":
                payload, checked = with_checks(payload, count)
            made += opening + check(opening + checked) + payload
    except (FormatError, IndexError):
        made += data[reader.position :][:200] if made else data
    body = made + bytes([END_MARK])
    return body + zlib.crc32(body).to_bytes(4, "big")


def with_checks(payload: bytes, count: int) -> tuple[bytes, bytes]:
    """Return the content of a chunk L with the checks of its blocks, and its index."""
    if count == 1:
        own = check(payload[CHECK_BYTES:])
        return own + payload[CHECK_BYTES:], own
    reader, places = ChunkReader(payload, 0), []
    for _ in range(count):
        size = reader.leb128()
        places.append((reader.position, size))
        reader.take(CHECK_BYTES)
    fixed, begin = bytearray(payload), reader.position
    for place, size in places:
        fixed[place : place + CHECK_BYTES] = check(payload[begin : begin + size])
        begin += size
    return bytes(fixed), bytes(fixed[: reader.position])


def main() -> None:
    warnings.simplefilter("ignore")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(fuzz.golden_files()):
        if len(data) <= LARGEST_SEED:
            (folder / f"golden-{number}").write_bytes(data)
            assert repaired(data) == data
    atheris.Setup(sys.argv, lambda data: fuzz.parse(repaired(data)))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
