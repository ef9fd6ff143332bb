"""Compare models on validation images: BD-rates against the first one.

    python benchmarks/compare_models.py FOLDER MODEL MODEL... [--qualities 10 20 35 55 80] [--count 16] [--side 256]
                                        [--scale 1] [--vgg FILE]

FOLDER holds training images; only the validation split is used, crops from their middles. Files are real. With
`--scale 0.5` images are halved first, which makes them sharper than their own files. LPIPS is given twice: as it is
usually computed, and as a mean over sixteen offsets. `cast` and `grid` are the energies of `sdcodec.training.losses`.
With `--vgg`, a file of VGG-16's weights, also by LPIPS-VGG and DISTS. SSIMULACRA 2 is a score: higher is better.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from effort import Distance, bd_rate, crops, goodness, measured_by
from sdcodec import Codec
from sdcodec.measures import ssimulacra2
from sdcodec.perceptual.lpips import LPIPS
from sdcodec.training.losses import cast, grid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--qualities", type=float, nargs="+", default=[10, 20, 35, 55, 80])
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--vgg", type=Path)
    options = parser.parse_args()
    pictures, lpips = crops(options.folder, options.count, options.side, options.scale), LPIPS()
    measures, others = measured_by(options.vgg)
    curves: list[NDArray[np.float64]] = []
    names = [*measures, "cast", "grid", "SSIMULACRA 2"]
    for model in options.models:
        codec = Codec(model, device="cpu")
        curves.append(np.array([_point(codec, pictures, quality, lpips, others) for quality in options.qualities]))
        gains = [f"{name} {bd_rate(curves[0], curves[-1], k):+.1f}%" for k, name in enumerate(names)]
        print(f"{model}: {', '.join(gains)}")
        for size, decibels, *distances, score in curves[-1]:
            told = [f"{name} {10 ** (-value / 10):.4f}" for name, value in zip(names[1:-1], distances, strict=True)]
            print(f"  {2**size:.0f} bytes, {decibels:.2f} dB, {', '.join(told)}, {names[-1]} {score:.2f}", flush=True)


def _point(
    codec: Codec, pictures: list[NDArray[np.uint8]], quality: float, lpips: LPIPS, others: list[Distance]
) -> NDArray[np.float64]:
    """Return log2 of bytes, `goodness`, both energies in -10 log10, and SSIMULACRA 2.

    They are means over images.
    """
    scores, energies, similarities = [], [], []
    for pixels in pictures:
        data = codec.encode(pixels, quality=quality).data
        decoded = np.asarray(codec.decode(data))
        error = torch.from_numpy(decoded.astype(np.float32) - pixels).permute(2, 0, 1)[None]
        scores.append([np.log2(len(data)), *goodness(pixels, decoded, lpips, others)])
        energies.append([float(cast(error)), float(grid(error))])
        similarities.append(ssimulacra2(pixels, decoded))
    return np.concatenate([np.mean(scores, axis=0), -10 * np.log10(np.mean(energies, axis=0)), [np.mean(similarities)]])


if __name__ == "__main__":
    main()
