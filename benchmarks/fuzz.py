"""Attack the readers with mutated files whose checksums are right.

    python benchmarks/fuzz.py --parsed 1000000 --symbols 20000 --pixels 2000
    python benchmarks/fuzz.py --bundles 100000 --recipes 100000

A checksum refuses nearly every mutated file before a parser sees it; here all checks are made anew after a mutation.
Files that follow from the golden files go through container, metadata, alpha and palette (--parsed), to symbols, or to
pixels. Only the library's typed errors may come, or a picture. Each crash is printed with its seed and written to
--crashes. The same seed gives the same file.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from sdcodec.chunk_reader import check, leb128
from sdcodec.container import MAGIC, Container, block_count, latent_grid
from sdcodec.errors import SdcodecError
from sdcodec.palette.vectors import Palettised
from sdcodec.pixels import Picture, to_pil, unpack_alpha

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
SLOW = 0.2  # seconds that parsing may take
SMALL = 1 << 16  # pixels; larger pictures are not decoded here
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
    return _built(rng, fields, chunks, container)


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
        length = leb128(len(payload) if rng.random() < 0.97 else rng.choice(EXTREMES))
        if letter == b"L":
            payload, checked = _with_index(rng, payload, count, len(container.blocks))
            length = leb128(len(payload))
        else:
            checked = payload
        body += letter + length + check(letter + length + checked) + payload
    body += b"\0"
    return body + zlib.crc32(body).to_bytes(4, "big") + (b"" if rng.random() < 0.95 else rng.randbytes(5))


def _with_index(rng: random.Random, payload: bytes, count: int, before: int) -> tuple[bytes, bytes]:
    """Give the content of L an index for `count` blocks.

    Returns it and the part that the chunk's check covers.
    """
    rest = payload[2 if before == 1 else 4 * before :]
    if count == 1:
        return check(rest) + rest, check(rest)
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


def parse(data: bytes) -> str:
    """Read all of a file but its latents; return what came of it."""
    outcome = "read"
    try:
        container = Container.from_bytes(data)
    except SdcodecError as error:
        outcome = type(error).__name__
        try:
            container = Container.from_bytes(data, recover=True)
        except SdcodecError:
            return outcome
    header = container.header
    if header.width * header.height > 1 << 26:
        return "too many pixels"
    try:
        alpha = None if container.alpha is None else unpack_alpha(container.alpha, header.width, header.height)
        if container.palette is not None:
            Palettised.from_bytes(container.palette, 64, *latent_grid(header.width, header.height, header.factor))
        import numpy as np

        shown = np.zeros((1, 1, 3), np.uint8)
        to_pil(Picture(shown, None if alpha is None else alpha[:1, :1], container.icc, container.exif, container.xmp))
    except SdcodecError as error:
        return type(error).__name__
    return outcome


def attack(
    name: str,
    count: int,
    seed: int,
    made: Callable[[int], bytes],
    read: Callable[[bytes], str],
    crashes: Path,
    slow: float,
) -> int:
    """Read `count` files, and print how they ended.

    Returns the number of crashes and slow ones.
    """
    outcomes: Counter[str] = Counter()
    longest, bad = 0.0, 0
    started = time.monotonic()
    for number in range(seed, seed + count):
        data = made(number)
        before = time.perf_counter()
        try:
            outcomes[read(data)] += 1
        except Exception:
            bad += 1
            outcomes["CRASH"] += 1
            print(f"{name}, seed {number}: {traceback.format_exc(limit=-3)}", flush=True)
            crashes.mkdir(parents=True, exist_ok=True)
            (crashes / f"{name}-{number}").write_bytes(data)
        seconds = time.perf_counter() - before
        if seconds > slow:
            bad += 1
            print(f"{name}, seed {number}: {seconds:.2f} s", flush=True)
        longest = max(longest, seconds)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    print(
        f"{name}: {count} in {time.monotonic() - started:.0f} s, longest {longest:.3f} s, peak memory {memory:.0f} MB: "
        + ", ".join(f"{key} {value}" for key, value in outcomes.most_common()),
        flush=True,
    )
    return bad


def changed_text(seed: int, text: bytes) -> bytes:
    """Return text with a few bytes, lines or numbers changed."""
    rng = random.Random(seed)
    data = bytearray(text)
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.randrange(len(data) + 1)
        way = rng.randrange(5)
        if way == 0 and data:
            data[rng.randrange(len(data))] = rng.randrange(256)
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("parsed", "symbols", "pixels", "bundles", "recipes"):
        parser.add_argument(f"--{name}", type=int, default=0, metavar="COUNT")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--crashes", type=Path, default=Path("crashes"))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    sources = golden_files()
    attacked = (arguments.seed, lambda seed: mutated(seed, sources))
    bad = attack("parsed", arguments.parsed, *attacked, parse, arguments.crashes, SLOW) if arguments.parsed else 0
    if arguments.symbols or arguments.pixels:
        bad += _attack_decoder(arguments, sources)
    if arguments.bundles:
        bad += _attack_bundles(arguments)
    if arguments.recipes:
        bad += _attack_recipes(arguments)
    return int(bad > 0)


def golden_files() -> list[bytes]:
    """Return the golden files, and one with a palette."""
    import sdcodec

    picture = sdcodec.Codec("base", device="cpu").decode(next(GOLDEN.rglob("photo-lowest.sdc")).read_bytes())
    palette = sdcodec.encode(picture, mode="palette", device="cpu")
    return [*(path.read_bytes() for path in sorted(GOLDEN.rglob("*.sdc"))), palette]


def _attack_decoder(arguments: argparse.Namespace, sources: list[bytes]) -> int:
    import sdcodec

    codec = sdcodec.Codec("base", device="cpu")
    small = [data for data in sources if _pixels(data) <= SMALL]

    def made(seed: int) -> bytes:
        rng = random.Random(seed)
        while True:
            data = mutated(rng.getrandbits(64), small)
            try:
                header = Container.from_bytes(data).header
            except SdcodecError:
                continue
            if header.width * header.height <= SMALL and header.fingerprint == codec.fingerprint:
                return data

    def read(way: Callable[[bytes], object]) -> Callable[[bytes], str]:
        def read(data: bytes) -> str:
            try:
                way(data)
            except SdcodecError as error:
                return type(error).__name__
            return "decoded"

        return read

    bad = 0
    for name, count, way in (("symbols", arguments.symbols, codec.symbols), ("pixels", arguments.pixels, codec.decode)):
        if count:
            bad += attack(name, count, arguments.seed, made, read(way), arguments.crashes, slow=10.0)
    return bad


def _pixels(data: bytes) -> int:
    header = Container.from_bytes(data).header
    return header.width * header.height


def _attack_bundles(arguments: argparse.Namespace) -> int:
    from sdcodec.bundles import store
    from sdcodec.bundles.loading import read_tensors

    shipped = store.SHIPPED / store.DEFAULT
    manifest = (shipped / store.MANIFEST).read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / store.MANIFEST
        weights = Path(folder) / "prior.safetensors"
        head = (shipped / "prior.safetensors").read_bytes()[:20000]

        def read(data: bytes) -> str:
            try:
                if data[:1] == b"J":
                    path.write_bytes(data[1:])
                    store.read_manifest(Path(folder))
                else:
                    weights.write_bytes(data[1:])
                    read_tensors(weights)
            except SdcodecError as error:
                return type(error).__name__
            return "read"

        def made(seed: int) -> bytes:
            return b"J" + changed_text(seed, manifest) if seed % 2 else b"T" + changed_text(seed, head)

        return attack("bundles", arguments.bundles, arguments.seed, made, read, arguments.crashes, SLOW)


def _attack_recipes(arguments: argparse.Namespace) -> int:
    from sdcodec.training.config import load_config

    recipe = (Path(__file__).parents[1] / "recipes" / "base.toml").read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.toml"

        def read(data: bytes) -> str:
            path.write_bytes(data)
            try:
                load_config(path)
            except SdcodecError as error:
                return type(error).__name__
            return "read"

        def made(seed: int) -> bytes:
            return changed_text(seed, recipe)

        return attack("recipes", arguments.recipes, arguments.seed, made, read, arguments.crashes, SLOW)


if __name__ == "__main__":
    sys.exit(main())
