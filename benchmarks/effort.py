"""Measure the gain and cost of each effort against effort 0.

    python benchmarks/effort.py FOLDER [--model NAME|taef2] [--efforts 0 1 2 ...] [--qualities 25 45 65] [--count 12]
                                [--side 256] [--vgg FILE] [--taef2 FILE.py] [--lpips WEIGHT] [--reach STEPS]

It prints BD-rates by PSNR and perceptual metrics, and multiples of the encoding time. FOLDER holds training images;
only the validation split is used, crops from their middles, evenly spread. Files are real. Time is that of the
processor, one thread, so that a busy machine matters little. LPIPS is given twice: as it is usually computed, and as
a mean over sixteen offsets, since AlexNet has a stride of 4 and refinement might be good at one phase only. With
`--vgg`, a file of VGG-16's weights, also by LPIPS-VGG and DISTS, which refinement never sees. `--lpips` and `--reach`
replace the model's weight of LPIPS in refinement, and its limit of the latents' moves.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import taef2_model
from sdcodec import Codec
from sdcodec.bundles import store
from sdcodec.effort import EFFORTS
from sdcodec.measures import psnr
from sdcodec.perceptual.dists import DISTS
from sdcodec.perceptual.lpips import LPIPS
from sdcodec.perceptual.vgg import read_vgg16
from sdcodec.training.data import find_images, load_pixels

MEASURES = ["PSNR", "LPIPS", "LPIPS over phases"]
VGG_MEASURES = ["LPIPS-VGG", "DISTS"]
Distance = Callable[[Tensor, Tensor], Tensor]


def crops(folder: Path, count: int, side: int, scale: float = 1.0) -> list[NDArray[np.uint8]]:
    """Return centre crops of validation images that are large enough, evenly spread.

    Images are scaled by `scale` first.
    """
    found = []
    for path in find_images([folder]).validation:
        pixels = load_pixels(path)
        if scale != 1:
            extent = round(scale * pixels.shape[1]), round(scale * pixels.shape[0])
            pixels = np.asarray(Image.fromarray(pixels).resize(extent, Image.Resampling.BICUBIC))
        top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
        if min(top, left) >= 0:
            found.append(pixels[top : top + side, left : left + side])
    return [found[i * len(found) // count] for i in range(min(count, len(found)))]


@torch.inference_mode()
def goodness(
    original: NDArray[np.uint8], decoded: NDArray[np.uint8], lpips: Distance, others: Sequence[Distance] = ()
) -> list[float]:
    """Return the values of MEASURES, then of `others`.

    Distances are in -10 log10: more is better, and pchip sees a smooth curve.
    """
    one, other = (torch.from_numpy(p.copy()).permute(2, 0, 1)[None].float() / 255 for p in (original, decoded))
    distances = [float(lpips(other[..., a:, b:], one[..., a:, b:])) for a in range(4) for b in range(4)]
    found = [distances[0], np.mean(distances), *(float(measure(other, one)) for measure in others)]
    return [psnr(original, decoded), *(-10 * np.log10(found))]


def measured_by(vgg: Path | None) -> tuple[list[str], list[Distance]]:
    """Return the names of all measures, and the distances after MEASURES."""
    if vgg is None:
        return MEASURES, []
    trunk = read_vgg16(vgg)
    return MEASURES + VGG_MEASURES, [LPIPS("vgg", trunk), DISTS(trunk)]


def bd_rate(anchor: NDArray[np.float64], tried: NDArray[np.float64], measure: int) -> float:
    """Return the BD-rate in percent, of means over images, ordered by quality.

    Points are log2 of bytes, then measures.
    """
    from bjontegaard import bd_rate as bjontegaard

    return float(
        bjontegaard(
            2 ** anchor[:, 0],
            anchor[:, 1 + measure],
            2 ** tried[:, 0],
            tried[:, 1 + measure],
            method="pchip",
            require_matching_points=False,
            min_overlap=0,
        )
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default=store.DEFAULT)
    parser.add_argument("--bundle", type=Path, default=Path("taef2-bundle"), help="where taef2's is made")
    parser.add_argument("--taef2", type=Path, help="loader of TAEF2's weights")
    parser.add_argument("--efforts", type=int, nargs="+", default=list(range(len(EFFORTS))))
    parser.add_argument("--qualities", type=float, nargs="+", default=[20, 35, 50, 65])
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--vgg", type=Path, help="VGG-16's weights, for LPIPS-VGG and DISTS")
    parser.add_argument("--lpips", type=float)
    parser.add_argument("--reach", type=float)
    options = parser.parse_args()
    torch.set_num_threads(1)
    codec = (
        taef2_model.codec(options.bundle, options.taef2)
        if options.model == "taef2"
        else Codec(options.model, device="cpu")
    )
    autoencoder = codec._model.autoencoder
    for setting, value in (("refinement_lpips", options.lpips), ("refinement_reach", options.reach)):
        if value is not None:
            setattr(autoencoder, setting, value)
    pictures = crops(options.folder, options.count, options.side)
    if not pictures:
        print(f"{options.folder}: no validation pictures of {options.side} pixels a side", file=sys.stderr)
        return 1
    lpips = LPIPS()
    measures, others = measured_by(options.vgg)
    print(f"{len(pictures)} crops of {options.side}x{options.side}, model {codec.name} {codec.fingerprint.hex()}")
    print("effort   " + "".join(f"{name:>19}" for name in measures) + "   time   bytes, PSNR, LPIPS at each quality")
    curves: dict[int, NDArray[np.float64]] = {}
    times: dict[int, float] = {}
    for effort in sorted({0, *options.efforts}):
        points, spent = [], 0.0
        for quality in options.qualities:
            rows = []
            for pixels in pictures:
                start = time.process_time()
                data = codec.encode(pixels, quality=quality, effort=effort).data
                spent += time.process_time() - start
                decoded = np.asarray(codec.decode(data))
                rows.append([np.log2(len(data)), *goodness(pixels, decoded, lpips, others)])
            points.append(np.mean(rows, axis=0))
        curves[effort], times[effort] = np.array(points), spent
        gains = "".join(f"{bd_rate(curves[0], curves[effort], m):18.2f}%" for m in range(len(measures)))
        told = "  ".join(f"{2 ** p[0]:.0f} {p[1]:.2f} {10 ** (-p[2] / 10):.4f}" for p in curves[effort])
        print(f"{effort:6d}   {gains} {times[effort] / times[0]:6.2f}   {told}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
