"""Compare the experiment of 2022 with priors: bytes for latents at equal MSE.

    python benchmarks/experiment_2022.py FOLDER [--spaces base taef2 taef2-pca4] [--count 4] [--side 512]
                                         [--colours 256] [--taef2 FILE.py] [--fit MINUTES]

For each image the palette mode's payload is made; then, with the quantiser of equal error (interpolated between
quality indices), the same latents are packed by deflate of the plain symbols, counted by their zero-order entropy per
channel (ideal, without side information), and coded by the adaptive prior and by the fitted one: `base` has its own;
for taef2, --fit trains one on the images of FOLDER that are not measured. taef2-pca4 replaces a space of four
channels, as Stable Diffusion's
has: the four principal components of TAEF2's latents, over the measured images. Errors are in the model's quantiser
    steps at quality 50.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import taef2_model
from effort import crops
from sdcodec import Codec
from sdcodec.bundles.loading import load
from sdcodec.constants import MEAN_BITS
from sdcodec.palette.vectors import MIDDLE, OFFSET_BITS, VALUE_BITS, Palettised, palettised
from sdcodec.pixels import read_picture
from sdcodec.priors.adaptive import AdaptivePrior
from sdcodec.priors.adaptive_tables import adaptive_config, adaptive_prior_tensors
from sdcodec.priors.protocol import Prior
from sdcodec.priors.sources import Coder
from sdcodec.training.prior_fit import FitConfig, fit_prior

CPU = torch.device("cpu")
# Scaled latents `[C, h, w]` and their quality index → bytes, and decoded latents.
Method = Callable[[Tensor, int], tuple[float, Tensor]]


@dataclass(frozen=True)
class Space:
    """Latents to code, in quantiser steps at MIDDLE `[C, h, w]`.

    Gains `[201, C]` are relative to that row; priors have names.
    """

    name: str
    pictures: list[Tensor]
    gains: Tensor
    priors: dict[str, Prior]


def space_of(codec: Codec, name: str, pixels: list[NDArray[np.uint8]], priors: dict[str, Prior]) -> Space:
    """Return the latents of a bundle."""
    model = codec._model
    middle = model.quantiser.gain[MIDDLE][:, None, None]
    pictures = [codec._latents([read_picture(own)])[0] * middle for own in pixels]
    gains = model.quantiser.gain / model.quantiser.gain[MIDDLE]
    return Space(name, pictures, gains, {"adaptive": _adaptive(model.autoencoder.channels), **priors})


def principal_components(space: Space, count: int) -> Space:
    """Return the first `count` of a space's components, over its images."""
    flat = torch.cat([own.flatten(1) for own in space.pictures], 1).double()
    centred = flat - flat.mean(1, keepdim=True)
    _, vectors = torch.linalg.eigh(centred @ centred.T)
    chosen = vectors[:, -count:].flip(1).T
    share = float((chosen @ centred).square().sum() / centred.square().sum())
    print(f"the first {count} components hold {100 * share:.0f}% of the variance of {space.name}'s latents")
    pictures = [
        (chosen @ (own.flatten(1).double() - flat.mean(1, keepdim=True))).float().view(count, *own.shape[1:])
        for own in space.pictures
    ]
    gains = space.gains.log().mean(1, keepdim=True).exp().expand(-1, count)
    return Space(f"{space.name}-pca{count}", pictures, gains, {"adaptive": _adaptive(count)})


def _adaptive(channels: int) -> Prior:
    tensors, tables = adaptive_prior_tensors(channels)
    return AdaptivePrior(adaptive_config(channels), tensors, tables, CPU)


def deflated(scaled: Tensor, quality_index: int) -> tuple[float, Tensor]:
    """Pack plain symbols with zlib, one or two bytes each."""
    symbols = scaled.round()
    kind = np.int8 if symbols.abs().max() < 128 else np.int16
    return len(zlib.compress(symbols.numpy().astype(kind).tobytes(), 9)), symbols


def zero_order(scaled: Tensor, quality_index: int) -> tuple[float, Tensor]:
    """Return the entropy of each channel's symbols, with known frequencies."""
    symbols = scaled.round()
    bits = 0.0
    for own in symbols.numpy():
        _, counts = np.unique(own, return_counts=True)
        bits -= float((counts * np.log2(counts / counts.sum())).sum())
    return bits / 8, symbols


def by_prior(prior: Prior) -> Method:
    """Return real bytes, of one block of up to 64x64."""

    def coded(scaled: Tensor, quality_index: int) -> tuple[float, Tensor]:
        coder = Coder(scaled[None], prior.hyper_latents(scaled[None], quality_index), prior.tables)
        values = prior.walk((1, *scaled.shape[1:]), quality_index, coder)
        [[block]] = coder.finish()
        return len(block), values[0].float() / (1 << MEAN_BITS)

    return coded


def at_error(method: Method, scaled: Tensor, wanted: float, gains: Tensor) -> float:
    """Return bytes at a mean squared error, log-linear between two quality indices."""

    def tried(quality_index: int) -> tuple[float, float]:
        gain = gains[quality_index][:, None, None]
        size, decoded = method(scaled * gain, quality_index)
        return float((decoded / gain - scaled).square().mean()), size

    low, high = 0, len(gains) - 1  # coarse, fine
    ends = {low: tried(low), high: tried(high)}
    if not ends[high][0] <= wanted <= ends[low][0]:
        return float("nan")
    while high - low > 1:
        middle = (low + high) // 2
        ends[middle] = tried(middle)
        low, high = (middle, high) if ends[middle][0] > wanted else (low, middle)
    (coarse, few), (fine, many) = ends[low], ends[high]
    share = np.log(coarse / wanted) / np.log(coarse / fine) if coarse > fine else 0.0
    return float(few * (many / few) ** share)


def nearest_error(scaled: NDArray[np.float32], chosen: Palettised) -> float:
    """Return the mean squared error of the same palette without dithering."""
    entries = (chosen.palette * float(chosen.unit) / (1 << VALUE_BITS) + chosen.offsets / (1 << OFFSET_BITS)).astype(
        np.float32
    )
    vectors = scaled.reshape(len(scaled), -1).T
    squares = np.array([np.square(own - entries).sum(1).min() for own in vectors])
    return float(squares.mean()) / len(scaled)


def compare(space: Space, colours: int) -> None:
    """Print one space's table."""
    methods: dict[str, Method] = {"uniform, deflate": deflated, "uniform, zero-order entropy": zero_order}
    methods |= {f"uniform, {name} prior": by_prior(prior) for name, prior in space.priors.items()}
    sizes: dict[str, list[float]] = {f"palette of {colours}, dithered": []}
    errors, growths = [], []
    for scaled in space.pictures:
        chosen = palettised(scaled.numpy(), colours)
        error = float(np.square(chosen.values() / (1 << VALUE_BITS) - scaled.numpy()).mean())
        errors.append(error / float(scaled.var()))
        growths.append(error / nearest_error(scaled.numpy(), chosen))
        sizes[f"palette of {colours}, dithered"].append(len(chosen.to_bytes()))
        for name, method in methods.items():
            sizes.setdefault(name, []).append(at_error(method, scaled, error, space.gains))
    first = np.mean(next(iter(sizes.values())))
    print(f"\n{space.name}: {len(space.pictures)} pictures, latents {list(space.pictures[0].shape)}, ", end="")
    print(
        f"error {100 * np.mean(errors):.1f}% of the latents' variance, "
        f"{np.mean(growths):.2f} times what the nearest vectors make"
    )
    before = first
    for name, own in sizes.items():
        mean = float(np.mean(own))
        print(f"{name:32} {mean:8.0f} bytes  {100 * (mean / first - 1):+6.1f}% to the palette", end="")
        print(f"  {100 * (mean / before - 1):+6.1f}% to the line before", flush=True)
        before = mean


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--spaces", nargs="+", default=["taef2-pca4", "taef2", "base"])
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--colours", type=int, default=256)
    parser.add_argument("--bundle", type=Path, default=Path("taef2-bundle"), help="where TAEF2's is made")
    parser.add_argument("--taef2", type=Path, help="loader of TAEF2's weights")
    parser.add_argument("--fit", type=float, default=0.0, help="minutes of training of a prior for TAEF2")
    options = parser.parse_args()
    pixels = crops(options.folder, options.count, options.side)
    if not pixels:
        print(f"{options.folder}: no validation pictures of {options.side} pixels a side", file=sys.stderr)
        return 1
    if any(name.startswith("taef2") for name in options.spaces):
        codec = taef2_model.codec(options.bundle, options.taef2)
        if options.fit:
            fitted = fit_prior(codec._bundle, [options.folder], FitConfig(minutes=options.fit), say=print)
            codec = taef2_model.codec(fitted.bundle.folder, options.taef2)
        kinds = {entry.kind: entry for entry in reversed(codec._bundle.priors)}
        learned = (
            {"fitted": load(codec._bundle, kinds["learned"], CPU, torch.float32).prior} if "learned" in kinds else {}
        )
        whole = space_of(codec, "taef2", pixels, learned)
        if "taef2-pca4" in options.spaces:
            compare(principal_components(whole, 4), options.colours)
        if "taef2" in options.spaces:
            compare(whole, options.colours)
    if "base" in options.spaces:
        codec = Codec("base", device="cpu", precision="float32")
        compare(space_of(codec, "base", pixels, {"learned": codec._model.prior}), options.colours)
    return 0


if __name__ == "__main__":
    sys.exit(main())
