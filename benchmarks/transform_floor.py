"""What the transforms of a model lose by themselves, without a quantiser: no rate buys more than that.

    python benchmarks/transform_floor.py FOLDER MODEL... [--qualities 30 45 60 85 100] [--count 24] [--side 256]

FOLDER holds training pictures; the middles of those that training keeps for validation are used. For each model and quality:
mean squared error (of 0..255) and LPIPS of pictures decoded from latents that were not rounded, and from rounded ones. Below,
for comparison, what is left where the 8x8 pixels of a latent are told by so many of their principal components.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from effort import crops
from sdcodec.bundles import loading, store
from sdcodec.perceptual.lpips import LPIPS

COMPONENTS = (16, 32, 48, 64, 96)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--qualities", type=float, nargs="+", default=[30, 45, 60, 85, 100])
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--side", type=int, default=256)
    options = parser.parse_args()
    pixels = torch.from_numpy(np.stack(crops(options.folder, options.count, options.side)))
    images = pixels.permute(0, 3, 1, 2).float() / 255
    lpips = LPIPS()
    for name in options.models:
        bundle = store.find(name)
        model = loading.load(bundle, bundle.priors[0], torch.device("cpu"), torch.float32)
        with torch.no_grad():
            latents = [model.autoencoder.encode(image) for image in images.split(1)]
        print(f"{name}\n{'quality':>7} {'not rounded: MSE':>17} {'LPIPS':>7} {'rounded: MSE':>13} {'LPIPS':>7}")
        for quality in options.qualities:
            found = [f"{figure:.4g}" for figure in _losses(model, images, latents, round(2 * quality), lpips)]
            print(f"{quality:7g} {found[0]:>17} {found[1]:>7} {found[2]:>13} {found[3]:>7}", flush=True)
    blocks = F.pixel_unshuffle(images * 255, 8).permute(0, 2, 3, 1).flatten(0, 2).double()
    energies = torch.linalg.eigvalsh(torch.cov(blocks.T)).flip(0)
    left = [f"{k}: {float(energies[k:].sum()) / len(energies):.1f}" for k in COMPONENTS]
    print("MSE left by principal components of 8x8 pixels, " + ", ".join(left))


@torch.no_grad()
def _losses(model: loading.Model, images: Tensor, latents: list[Tensor], half_steps: int, lpips: LPIPS) -> list[float]:
    """MSE and LPIPS of latents as they are, and of latents rounded to the nearest step, means over the pictures."""
    gain, inverse = (each[half_steps][:, None, None] for each in (model.gain, model.inverse_gain))
    errors = []
    for image, own in zip(images.split(1), latents, strict=True):
        steps = own * gain
        for told in (steps, steps.round()):
            decoded = model.autoencoder.decode(told * inverse, half_steps)
            errors.append([float((255 * (decoded - image)).square().mean()), float(lpips.distance(decoded, image))])
    return [float(value) for value in np.mean(np.reshape(errors, (-1, 4)), axis=0)]


if __name__ == "__main__":
    main()
