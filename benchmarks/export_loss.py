"""What the export to integers costs: bits of the float prior against bits of the integer one, on the same latents.

    python benchmarks/export_loss.py runs/mine/last.pt path/to/bundle path/to/photographs

The float figure is the trained network's code length under continuous Gaussians without any rounding of the prior; the
integer figure is the ideal code length under the shipped tables; the real one is the length of the coded blocks.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

import sdcodec
from sdcodec import blocks
from sdcodec.pixels import read_picture
from sdcodec.priors.rounding import Rounding
from sdcodec.priors.sources import CostEstimator
from sdcodec.training.config import PriorConfig, TinyConfig
from sdcodec.training.model import TrainingModel
from sdcodec.training.run import load_weights
from sdcodec_eval.pictures import centre_crop, collect, read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--quality", type=float, nargs="+", default=[10, 20, 30, 40, 50, 70, 90])
    options = parser.parse_args()
    codec = sdcodec.Codec(options.bundle, device="cpu", precision="float32")
    config = torch.load(options.checkpoint, map_location="cpu", weights_only=True)["config"]
    model = TrainingModel(TinyConfig(**config["tiny"]), PriorConfig(**config["prior"]))
    model.load_state_dict(load_weights(options.checkpoint))
    model.eval()
    pictures = [centre_crop(read(source), 512) for source in collect([options.images])]
    latents = [codec._latents([read_picture(pixels)])[0] for pixels in pictures]
    print(
        f"{len(pictures)} pictures\n{'quality':>7} {'float B':>9} {'integer B':>9} {'loss':>7} {'real B':>9} {'over ideal':>10}"
    )
    for quality in options.quality:
        half_steps = round(2 * quality)
        floats, integers, real = [], [], []
        for own in latents:
            steps = own[None] * codec._model.gain[half_steps][:, None, None]
            with torch.no_grad():
                floats.append(float(model.prior(steps, torch.tensor([quality])).bits) / 8)
            prior = codec._model.prior
            estimator = CostEstimator(steps, prior.hyper_latents(steps, half_steps), prior.tables)
            prior.walk((1, *own.shape[1:]), half_steps, estimator)
            integers.append(estimator.bits / 8)
            [coded] = blocks.code(codec._model, own[None], half_steps, Rounding())
            real.append(sum(map(len, coded.blocks)))
        a, b, c = np.mean(floats), np.mean(integers), np.mean(real)
        print(f"{quality:7g} {a:9.1f} {b:9.1f} {b / a - 1:7.2%} {c:9.1f} {c / b - 1:10.2%}")


if __name__ == "__main__":
    main()
