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
from sdcodec_eval.classic import AVIF, JPEG, WEBP, decoded

from sdcodec import Codec
from sdcodec_eval.metrics import Pixels, lpips, psnr, ssim

OTHERS = {"jpeg": JPEG, "webp": WEBP, "avif": AVIF}
Row = tuple[str, str, int, int, float, float, float, float]  # as HEADER names them
HEADER = ("image", "codec", "budget_bytes", "bytes", "quality", "psnr", "ssim", "lpips_alex")


def centre_crop(path: Path, side: int = 512) -> Image.Image:
    """The middle of an image, RGB."""
    with Image.open(path) as image:
        left, top = (image.width - side) // 2, (image.height - side) // 2
        return image.convert("RGB").crop((left, top, left + side, top + side))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bytes", type=int, nargs="+", default=[2500, 5000, 10000])
    parser.add_argument("--codecs", nargs="*", choices=sorted(OTHERS), default=[])
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
    print(f"{'codec':8} {'budget':>7} {'bytes':>8} {'reached':>7} {'PSNR':>7} {'SSIM':>7} {'LPIPS':>7}  worst by LPIPS")
    rows: list[Row] = []
    for budget in options.bytes:
        found: dict[str, list[Row]] = {name: [] for name in ("sdcodec", *options.codecs)}
        for path in paths:
            image = centre_crop(path)
            original = np.asarray(image)

            def measured(codec: str, data: bytes, quality: float, pixels: Pixels) -> Row:
                values = psnr(original, pixels), ssim(original, pixels), lpips(original, pixels)  # noqa: B023
                return (path.stem, codec, budget, len(data), quality, *values)  # noqa: B023

            encoded = codec.encode(image, target_bytes=budget)
            pixels = np.asarray(codec.decode(encoded.data).convert("RGB"))
            found["sdcodec"].append(measured("sdcodec", encoded.data, encoded.quality, pixels))
            if options.out:
                options.out.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(options.out / f"{path.stem}-{budget}.png")
            for name in options.codecs:
                best = OTHERS[name].best_within(image, len(encoded.data))
                if best is not None:
                    found[name].append(measured(name, best[0], best[1], decoded(best[0])))
        for name, own in found.items():
            print(_summary(name, budget, own, len(paths)), flush=True)
            rows += own
    if options.out:
        with (options.out / "results.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([HEADER, *rows])
    return int(any(row[3] > row[2] for row in rows))


def _summary(name: str, budget: int, rows: list[Row], pictures: int) -> str:
    reached = f"{len(rows)}/{pictures}"
    if not rows:
        return f"{name:8} {budget:7d} {'':8} {reached:>7}"
    size, psnr_mean, ssim_mean, lpips_mean = (float(np.mean([row[i] for row in rows])) for i in (3, 5, 6, 7))
    worst = ", ".join(f"{row[0]} {row[7]:.3f}" for row in sorted(rows, key=lambda row: -row[7])[:3])
    return f"{name:8} {budget:7d} {size:8.1f} {reached:>7} {psnr_mean:7.3f} {ssim_mean:7.4f} {lpips_mean:7.4f}  {worst}"


if __name__ == "__main__":
    sys.exit(main())
