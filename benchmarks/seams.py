"""Seams at borders of blocks: jumps of the error, against those elsewhere.

    python benchmarks/seams.py sky.png photographs/*.png --qualities 0 20 50 80

The jump at a line is the mean of |d(x) - d(x - 1)|, with d the decoded minus the original picture, over the pixels
along it and the colours. Printed is, for each picture, the largest jump at a border of blocks (every 512 pixels)
divided by the median jump at the 20 nearest multiples of 8, with a floor of 0.05 grey levels.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import sdcodec
from sdcodec.constants import BLOCK_LATENTS

LATENT = 8  # pixels
FLOOR = 0.05  # grey levels
NEAR = 10  # lines on either side


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="+", type=Path)
    parser.add_argument("--qualities", nargs="+", type=float, default=[0, 20, 50, 80])
    parser.add_argument("--bpp", nargs="*", type=float, default=[], help="also by size")
    parser.add_argument("--effort", type=int, default=0)
    parser.add_argument("--short-side", type=int, default=0, help="scale pictures up to this side, in pixels")
    parser.add_argument("--model", default="base")
    arguments = parser.parse_args()
    codec = sdcodec.Codec(arguments.model)
    print(f"{'picture':32} {'setting':>10} {'bytes':>8} {'PSNR':>6} {'seam':>6}")
    for path in arguments.pictures:
        picture = _opened(path, arguments.short_side)
        settings = [{"quality": quality} for quality in arguments.qualities]
        settings += [{"target_bpp": bpp} for bpp in arguments.bpp]
        for setting in settings:
            encoded = codec.encode(picture, effort=arguments.effort, **setting)
            error = np.asarray(codec.decode(encoded.data), np.float64) - np.asarray(picture, np.float64)
            psnr = 10 * np.log10(255**2 / np.square(error).mean())
            [(name, value)] = setting.items()
            print(
                f"{path.name[-32:]:32} {name[:6]:>6}{value:4g} {len(encoded.data):8} {psnr:6.2f} {seam(error):6.2f}",
                flush=True,
            )


def seam(error: NDArray[np.float64]) -> float:
    """Return the largest relative jump of an error `[H, W, C]` at a border of blocks."""
    found = []
    for own in (error, error.swapaxes(0, 1)):
        jumps = np.abs(np.diff(own, axis=1)).mean((0, 2))[LATENT - 1 :: LATENT]  # at 8, 16, ...
        for border in range(BLOCK_LATENTS - 1, len(jumps), BLOCK_LATENTS):
            near = np.concatenate([jumps[max(0, border - NEAR) : border], jumps[border + 1 : border + 1 + NEAR]])
            found.append(jumps[border] / max(FLOOR, float(np.median(near))))
    if not found:
        raise SystemExit(f"a picture of {error.shape[1]} x {error.shape[0]} pixels has a single block")
    return max(found)


def _opened(path: Path, short_side: int) -> Image.Image:
    with Image.open(io.BytesIO(path.read_bytes())) as opened:
        picture = opened.convert("RGB")
    factor = short_side / min(picture.size)
    if factor > 1:
        picture = picture.resize([round(side * factor) for side in picture.size], Image.Resampling.LANCZOS)
    return picture


if __name__ == "__main__":
    main()
