"""A second reader, libvips, gives the same pixels for every kind of file.

It is optional: pip install pyvips-binary pyvips.
"""

from __future__ import annotations

import importlib.util
import io
import itertools
import struct
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from raw_images import SAMPLES, png_bytes, tiff_bytes
from sdcodec.pixels import read_picture

HEIGHT, WIDTH = 21, 37
RANDOM = np.random.default_rng(11)
SMOOTH = np.asarray(Image.fromarray(RANDOM.integers(0, 256, (3, 5, 3), np.uint8)).resize((WIDTH, HEIGHT)))


def noise(depth: int, count: int) -> np.ndarray:
    return RANDOM.integers(0, 1 << depth, (HEIGHT, WIDTH, count))


def png_files() -> dict[str, bytes]:
    kinds = [(depth, 0) for depth in (1, 2, 4, 8, 16)] + [(depth, 3) for depth in (1, 2, 4, 8)]
    kinds += [(depth, kind) for kind in (2, 4, 6) for depth in (8, 16)]
    files = {}
    for (depth, kind), interlaced, keyed in itertools.product(kinds, (False, True), (False, True)):
        if keyed and kind in (4, 6):
            continue
        values, chunks = noise(depth, SAMPLES[kind]), []
        if kind == 3:
            chunks.append((b"PLTE", RANDOM.integers(0, 256, 3 << depth, np.uint8).tobytes()))
        if keyed:
            key = struct.pack(f">{SAMPLES[kind]}H", *values[3, 4]) if kind != 3 else bytes([0, 99])
            chunks.append((b"tRNS", key))
        name = f"png type {kind}, {depth} bits{', interlaced' * interlaced}{', transparent' * keyed}"
        files[name] = png_bytes(values, depth, kind, interlaced=interlaced, before=chunks)
    return files


def tiff_files() -> dict[str, bytes]:
    files = {}
    for bits, photometric in itertools.product((1, 2, 4, 8, 16), (0, 1)):
        files[f"tiff grey, {bits} bits, photometric {photometric}"] = tiff_bytes(noise(bits, 1), bits, photometric)
    for bits, separate in ((8, False), (8, True), (16, False)):
        files[f"tiff RGB, {bits} bits{', planes' * separate}"] = tiff_bytes(noise(bits, 3), bits, 2, separate=separate)
    image = Image.fromarray(SMOOTH)
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        files[f"tiff {compression}"] = saved(image, "TIFF", compression=compression)
    return files


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def other_files() -> dict[str, bytes]:
    image = Image.fromarray(SMOOTH)
    files = {}
    for progressive, subsampling in itertools.product((False, True), ("4:4:4", "4:2:2", "4:2:0")):
        options = {"progressive": progressive, "subsampling": subsampling, "quality": 90}
        files[f"jpeg {subsampling}{', progressive' * progressive}"] = saved(image, "JPEG", **options)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        files[f"jpeg, orientation {orientation}"] = saved(image, "JPEG", exif=exif, quality=95)
    files["jpeg grey"] = saved(image.convert("L"), "JPEG")
    files["webp lossless"] = saved(image, "WEBP", lossless=True)
    files["gif"] = saved(image.quantize(64), "GIF")
    return files


def lossless_files() -> dict[str, tuple[bytes, Image.Image]]:
    """Return files of BMP and PNM, and the image that they hold.

    The second reader may not read them.
    """
    image = Image.fromarray(SMOOTH)
    files = {}
    for mode, kind in itertools.product(("1", "L", "RGB"), ("PPM", "BMP")):
        files[f"{kind} {mode}"] = (saved(image.convert(mode), kind), image.convert(mode))
    files["BMP palette"] = (saved(image.quantize(16), "BMP"), image.quantize(16))
    files["BMP 32 bits"] = (saved(image.convert("RGBA"), "BMP"), image)
    return files


LOSSLESS = lossless_files()
FILES = png_files() | tiff_files() | other_files()


@pytest.fixture(scope="module")
def reading() -> ModuleType:
    """Load benchmarks/reading.py, if libvips is installed."""
    pytest.importorskip("pyvips")
    path = Path(__file__).parents[1] / "benchmarks" / "reading.py"
    specification = importlib.util.spec_from_file_location("reading", path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", FILES)
def test_both_readers_agree(name: str, reading: ModuleType) -> None:
    first, second = reading.first_reading(FILES[name]), reading.second_reading(FILES[name])
    assert first.pixels is not None, first.notes
    assert reading.difference(first, second) == "", second.notes


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_files_hold_their_image(name: str) -> None:
    data, image = LOSSLESS[name]
    assert np.array_equal(read_picture(data).rgb, np.asarray(image.convert("RGB")))
