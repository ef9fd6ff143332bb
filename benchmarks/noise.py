"""What perceptual distances say of noise: decoded validation pictures before and after noise of a few strengths was added.

    python benchmarks/noise.py FOLDER --vgg FILE [--model NAME] [--qualities 0 10 30] [--count 12] [--side 256] [--scale 1]

A decoder that is given noise to make texture of (common randomness) can do no better by a distance that every noise makes larger.
FOLDER holds training pictures; only those that training keeps for validation are used. `white`: the same strength everywhere, in
levels of 255; `local`: in parts of the decoded picture's own standard deviation around each pixel, so that flat areas stay flat.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from effort import VGG_MEASURES, crops, measured_by
from sdcodec import Codec
from sdcodec.bundles import store
from sdcodec.perceptual.lpips import LPIPS

AROUND = 9  # pixels, a side
STRENGTHS = {"white": (1.0, 2.0, 4.0), "local": (0.05, 0.1, 0.2)}


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--vgg", type=Path, required=True)
    parser.add_argument("--model", default=store.DEFAULT)
    parser.add_argument("--qualities", type=float, nargs="+", default=[0, 10, 30])
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--scale", type=float, default=1.0)
    options = parser.parse_args()
    _, others = measured_by(options.vgg)
    distances = dict(zip(["LPIPS", *VGG_MEASURES], [LPIPS(), *others], strict=True))
    codec = Codec(options.model, device="cpu")
    originals = np.stack(crops(options.folder, options.count, options.side, options.scale))
    references = _images(originals)
    for quality in options.qualities:
        files = [codec.encode(pixels, quality=quality, effort=0).data for pixels in originals]
        decoded = _images(np.stack([np.asarray(picture) for picture in codec.decode_batch(files)]))
        print(f"quality {quality:g}, {np.mean([len(data) for data in files]):.0f} bytes")
        noise = torch.randn(decoded[:, :1].shape, generator=torch.Generator().manual_seed(1))
        shapes = {"white": 1 / 255, "local": _deviation(decoded)}
        tried = [("none", 0.0), *((kind, strength) for kind, all_of in STRENGTHS.items() for strength in all_of)]
        for kind, strength in tried:
            grained = decoded if kind == "none" else decoded + strength * shapes[kind] * noise
            grained = grained.clamp(0, 1).mul(255).round().div(255)
            found = {name: float(measure(grained, references).mean()) for name, measure in distances.items()}
            print(
                f"  {kind} {strength:g}: " + ", ".join(f"{name} {value:.4f}" for name, value in found.items()),
                flush=True,
            )


def _images(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2).float() / 255


def _deviation(images: Tensor) -> Tensor:
    """Standard deviation of the grey picture around each pixel, `[B, 1, H, W]`."""
    grey = images.mean(1, keepdim=True)
    means = [F.avg_pool2d(values, AROUND, 1, AROUND // 2, count_include_pad=False) for values in (grey, grey.square())]
    return (means[1] - means[0].square()).clamp(min=0).sqrt()


if __name__ == "__main__":
    main()
