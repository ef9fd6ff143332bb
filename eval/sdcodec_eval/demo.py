"""`make demo`: one photograph at 5,000 bytes, beside JPEG and WebP of the same size.

python -m sdcodec_eval.demo [IMAGE] [--bytes 5000] [--out demo-output]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from sdcodec import Codec
from sdcodec_eval.classic import JPEG, WEBP
from sdcodec_eval.comparison import as_table, compare
from sdcodec_eval.montage import side_by_side

PHOTOGRAPH = Path("images/raccoon.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?", type=Path, default=PHOTOGRAPH)
    parser.add_argument("--bytes", type=int, default=5000)
    parser.add_argument("--out", type=Path, default=Path("demo-output"))
    options = parser.parse_args()
    with Image.open(options.image) as image:
        original = image.convert("RGB")
    rows = compare(original, options.bytes, Codec("tiny"), [JPEG, WEBP])
    options.out.mkdir(parents=True, exist_ok=True)
    pictures = [("original\n" + f"{original.width} x {original.height}", np.asarray(original))]
    for row, name in zip(rows, ("sdcodec", "jpeg", "webp"), strict=True):
        if row.data is None or row.pixels is None:
            continue
        suffix = {"sdcodec": ".sdc", "jpeg": ".jpg", "webp": ".webp"}[name]
        (options.out / (name + suffix)).write_bytes(row.data)
        Image.fromarray(row.pixels).save(options.out / f"{name}.png")
        pictures.append((row.label, row.pixels))
    side_by_side(pictures).save(options.out / "side-by-side.png")
    print(f"{options.image} at {options.bytes} bytes\n\n{as_table(rows)}\n")
    print(
        f"LPIPS: lower is better. Files and pictures are in {options.out}/; look at {options.out / 'side-by-side.png'}"
    )


if __name__ == "__main__":
    main()
