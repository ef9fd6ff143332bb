"""Kodak's centre crops of 512x512 at byte budgets: real files, each within its budget, read back and measured.

python benchmarks/kodak.py FOLDER [--bytes 2500 5000 10000] [--model tiny] [--out DIR]
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sdcodec_eval.metrics import lpips, psnr, ssim

from sdcodec import Codec


def centre_crop(path: Path, side: int = 512) -> Image.Image:
    """The middle of an image, RGB."""
    with Image.open(path) as image:
        left, top = (image.width - side) // 2, (image.height - side) // 2
        return image.convert("RGB").crop((left, top, left + side, top + side))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bytes", type=int, nargs="+", default=[2500, 5000, 10000])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--out", type=Path, help="write results.csv and the decoded pictures here")
    options = parser.parse_args()
    paths = sorted(options.folder.glob("*.png"))
    if not paths:
        print(f"{options.folder}: no PNG files there", file=sys.stderr)
        return 1
    codec = Codec(options.model, precision=options.precision)
    print(f"{len(paths)} pictures, model {codec.name} {codec.fingerprint.hex()}")
    print(
        f"{'budget':>7} {'bytes':>8} {'within':>7} {'PSNR':>7} {'SSIM':>7} {'LPIPS':>7}  worst three by LPIPS",
        flush=True,
    )
    rows = []
    for budget in options.bytes:
        own = []
        for path in paths:
            image = centre_crop(path)
            original = np.asarray(image)
            encoded = codec.encode(image, target_bytes=budget)
            pixels = np.asarray(codec.decode(encoded.data).convert("RGB"))
            values = psnr(original, pixels), ssim(original, pixels), lpips(original, pixels)
            own.append((path.stem, budget, len(encoded.data), encoded.quality, *values))
            if options.out:
                options.out.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(options.out / f"{path.stem}-{budget}.png")
        means = np.mean([[row[2], *row[4:]] for row in own], axis=0)
        worst = sorted(own, key=lambda row: -row[6])[:3]
        within = sum(row[2] <= budget for row in own)
        print(
            f"{budget:7d} {means[0]:8.1f} {within:4d}/{len(own)} {means[1]:7.3f} {means[2]:7.4f} {means[3]:7.4f}  "
            + ", ".join(f"{row[0]} {row[6]:.3f}" for row in worst),
            flush=True,
        )
        rows += own
    if options.out:
        with (options.out / "results.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(
                [("image", "budget_bytes", "bytes", "quality", "psnr", "ssim", "lpips_alex"), *rows]
            )
    return int(any(row[2] > row[1] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
