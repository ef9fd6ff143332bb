"""Compare one photograph at 5,000 bytes with JPEG and WebP of the same size.

python -m sdcodec_eval.demo [IMAGE] [--bytes 5000] [--out demo-output]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from sdcodec.errors import SdcodecError
from sdcodec.files import atomic_write
from sdcodec.pixels import to_image_file
from sdcodec_eval.codecs.registry import parse
from sdcodec_eval.comparison import compare

PHOTOGRAPH = Path("images/raccoon.png")
CODECS = ("sdcodec", "jpeg", "webp")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?", type=Path, default=PHOTOGRAPH, help="image to compare")
    parser.add_argument("--bytes", type=int, default=5000, help="byte budget of each file (default: 5000)")
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="output folder (default: demo-output)")
    options = parser.parse_args()
    try:
        comparison = compare(options.image, options.bytes, [parse(name) for name in CODECS])
    except SdcodecError as error:
        parser.exit(1, f"Error: {error}\n")
    options.out.mkdir(parents=True, exist_ok=True)
    for label, reason in comparison.left_out.items():
        print(f"{label} is left out: {reason}")
    for result in comparison.results:
        if result.data is None or result.pixels is None:
            continue
        atomic_write(options.out / f"{result.row.codec}.{result.extension}", result.data, force=True)
        decoded = to_image_file(Image.fromarray(result.pixels), "png")
        atomic_write(options.out / f"{result.row.codec}.png", decoded, force=True)
    atomic_write(options.out / "side-by-side.png", to_image_file(comparison.picture(), "png"), force=True)
    print(f"{options.image} at {options.bytes} bytes\n\n{comparison.table()}\n")
    print(f"LPIPS: lower is better. Files and images are in {options.out}/; open {options.out / 'side-by-side.png'}")


if __name__ == "__main__":
    main()
