"""Attack the readers with mutated files whose checksums are right.

    python benchmarks/fuzz.py --parsed 1000000 --symbols 20000 --pixels 2000
    python benchmarks/fuzz.py --bundles 100000 --recipes 100000 --checkpoints 100000

A checksum refuses nearly every mutated file before a parser sees it; here all checks are made anew after a mutation.
Files that follow from the golden files go through container, metadata, alpha and palette (--parsed), to symbols, or to
pixels. Only the library's typed errors may come, or a picture. Each crash is printed with its seed and written to
--crashes. The same seed gives the same file.
"""

from __future__ import annotations

import argparse
import io
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
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from mutations import changed_text, mutated
from sdcodec.container import Container, latent_grid
from sdcodec.errors import SdcodecError
from sdcodec.palette.vectors import Palettised
from sdcodec.pixels import Picture, pack_alpha, read_picture, smooth_hidden_colour, to_image_file, to_pil, unpack_alpha
from sdcodec.pixels.metadata import RAW_PROFILES

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
SLOW = 0.2  # seconds that parsing may take
SMALL = 1 << 16  # pixels; larger pictures are not decoded here
SHOWN = 24  # pixels of a side that take part in writing and reading metadata
FORMATS = ("png", "png", "tiff", "tiff", "webp", "jpeg")


def parse(data: bytes) -> str:
    """Read all of a file but its latents; return what came of it.

    An intact file has to be the same after it is written again.
    """
    outcome = "read"
    try:
        container = Container.from_bytes(data)
        assert Container.from_bytes(container.to_bytes()) == replace(container, trailing=0)
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
        alpha = None
        if container.alpha is not None:
            alpha = unpack_alpha(container.alpha, header.width, header.height)[-SHOWN:, -SHOWN:]
            assert (unpack_alpha(pack_alpha(alpha), *alpha.shape[::-1]) == alpha).all()
        if container.palette is not None:
            grid = latent_grid(header.width, header.height, header.factor)
            palette = Palettised.from_bytes(container.palette, 64, *grid)
            if header.width * header.height < SMALL:
                again = Palettised.from_bytes(palette.to_bytes(), 64, *grid)
                assert (again.values() == palette.values()).all()
        metadata = container.icc, container.exif, container.xmp
        if alpha is not None or any(metadata):
            rgb = np.zeros((SHOWN, SHOWN, 3) if alpha is None else (*alpha.shape, 3), np.uint8)
            _exchange(to_pil(Picture(rgb, alpha, *metadata)), zlib.crc32(data))
    except SdcodecError as error:
        return type(error).__name__
    return outcome


def _exchange(image: Image.Image, choice: int) -> None:
    """Write a picture with its metadata as an image file, and read that again."""
    kind = FORMATS[choice % len(FORMATS)]
    if kind == "jpeg":
        image = image.convert("RGB")
    exif = image.info.pop("exif", b"") if choice & 64 else b""
    if kind == "png" and exif:
        text = PngInfo()  # EXIF in hexadecimal digits, as ImageMagick writes it
        length = len(exif) + (choice >> 8) % 3
        text.add_text(RAW_PROFILES[choice >> 7 & 1], f"\nexif\n{length:8}\n{exif.hex()}\n", zip=True)
        buffer = io.BytesIO()
        image.save(buffer, "PNG", pnginfo=text)
        file = buffer.getvalue()
    else:
        image.info |= {"exif": exif} if exif else {}
        file = to_image_file(image, kind)
    picture = read_picture(file, metadata="all")
    if picture.alpha is not None:
        smooth_hidden_colour(picture.rgb, picture.alpha)


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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("parsed", "symbols", "pixels", "bundles", "recipes", "checkpoints"):
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
    if arguments.checkpoints:
        bad += _attack_checkpoints(arguments)
    return int(bad > 0)


def golden_files() -> list[bytes]:
    """Return the golden files, two with a palette, and one with alpha and metadata."""
    import sdcodec

    codec = sdcodec.Codec("base", device="cpu")
    picture = codec.decode(next(GOLDEN.rglob("photo-lowest.sdc")).read_bytes())
    palettes = [codec.encode(picture, mode="palette", target_bytes=budget).data for budget in (None, 600)]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.Make] = 6, "Make"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ISOSpeedRatings] = 100
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    alpha = Container.from_bytes(next(GOLDEN.rglob("alpha.sdc")).read_bytes())
    tagged = replace(alpha, icc=icc, exif=exif.tobytes().removeprefix(b"Exif\0\0"), xmp=xmp)
    return [*(path.read_bytes() for path in sorted(GOLDEN.rglob("*.sdc"))), *palettes, tagged.to_bytes()]


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


def _attack_checkpoints(arguments: argparse.Namespace) -> int:
    from fuzz_training import Attack

    with tempfile.TemporaryDirectory() as folder:
        attacked = Attack(Path(folder))
        counts = arguments.checkpoints, arguments.seed
        return attack("checkpoints", *counts, attacked.made, attacked.read, arguments.crashes, slow=1.0)


if __name__ == "__main__":
    sys.exit(main())
