"""Measure peak memory of encoding and decoding a 24-megapixel photograph.

    python benchmarks/memory.py [IMAGE] [--megapixels 24]

Each runs on the CPU in a fresh process.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from sdcodec.bundles import store

CHILD = """
import resource, sys, time
start = time.perf_counter()
from sdcodec_cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as ended:
    status = ended.code
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
print(f"{sys.argv[1]}: peak {peak:.2f} GiB, {time.perf_counter() - start:.1f} s")
sys.exit(status)
"""


def large_photograph(path: Path, megapixels: float) -> Image.Image:
    """Make a 3:2 image of `megapixels`: mirrored copies of a smaller one, with noise."""
    with Image.open(path) as image:
        tile = np.asarray(image.convert("RGB"))
    width = round((megapixels * 1e6 * 1.5) ** 0.5)
    height = round(width / 1.5)
    upper = np.concatenate([tile, tile[:, ::-1]], axis=1)
    quad = np.concatenate([upper, upper[::-1]])
    repeats = (-(-height // quad.shape[0]), -(-width // quad.shape[1]), 1)
    pixels = np.tile(quad, repeats)[:height, :width].astype(np.int16)
    pixels += np.random.default_rng(0).integers(-6, 7, pixels.shape, dtype=np.int16)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?", type=Path, default=Path("images/raccoon.png"))
    parser.add_argument("--megapixels", type=float, default=24)
    parser.add_argument("--model", default=store.DEFAULT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        large = Path(folder, "large.png")
        picture = large_photograph(options.image, options.megapixels)
        print(f"{picture.width} x {picture.height}")
        picture.save(large, compress_level=1)
        file, back = Path(folder, "large.sdc"), Path(folder, "back.png")
        for command, source, target in (("encode", large, file), ("decode", file, back)):
            arguments = [command, str(source), "-o", str(target), "--model", options.model]
            subprocess.run([sys.executable, "-c", CHILD, *arguments], check=True)


if __name__ == "__main__":
    main()
