"""Code a foreign autoencoder's latents with the adaptive and a fitted prior.

    python benchmarks/foreign_priors.py LOADER.py TESTED --photographs FOLDER --work FOLDER [--minutes 10 | --steps N]
    python benchmarks/foreign_priors.py LOADER.py TESTED --work FOLDER --fitted      (later, with the contents of
    --work)

LOADER.py is a module with a function `load()` that returns a PyTorch module with `encode(images)`, `decode(latents)`
and `decoder(latents)`, which is differentiable: images `[B, 3, H, W]` in [0, 1], latents `[B, 32, H/8, W/8]`. The
bundle is made as `models add` makes one (quantiser steps calibrated on photographs, the adaptive prior), then fitted
as `models fit` does. Measured on the centre crops of TESTED:

- bytes of real files; PSNR and LPIPS of the decoded images;
- at the same quantiser steps, for the plain integers round(latent / step): zlib (level 9) of them as 8-bit values,
  their ideal zero-order entropy with the frequencies of each channel of each image known and free, lossless PNG and
  WebP of their planes side by side as one grey image;
- `error`: the mean squared error of the latents in quantiser steps, with plain rounding and with either prior. Both
  priors round around their predictions; the comparison is fair because their error is no larger;
- `same`: bytes of the adaptive prior for exactly those integers, its means rounded to whole quantiser steps.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import io
import math
import shutil
import statistics
import sys
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sdcodec import Codec, grid
from sdcodec.bundles import calibration, loading, store
from sdcodec.bundles.writing import adaptive_prior, write_bundle
from sdcodec.coding.tables import gaussian_tables, scales
from sdcodec.measures import lpips, psnr
from sdcodec.modes.latents import filed
from sdcodec.pixels import read_picture
from sdcodec.priors.adaptive import AdaptivePrior
from sdcodec.priors.adaptive_tables import adaptive_config, adaptive_prior_tensors
from sdcodec.priors.learned import LearnedPrior
from sdcodec.priors.protocol import Prior
from sdcodec.priors.rounding import Rounding
from sdcodec.priors.sources import Coder, Decoder
from sdcodec.training.export import prior_tensors
from sdcodec.training.prior_fit import FitConfig, fit_prior, prior_config
from sdcodec.training.prior_network import PriorNetwork
from sdcodec_eval.pictures import Source, centre_crop, collect, read

COLUMNS = ("image", "quality", "codec", "bytes", "error", "psnr", "lpips")
Row = tuple[str, float, str, float, float, float, float]


class Foreign:
    """The loaded module as an autoencoder of this library."""

    channels, factor, margin = 32, 8, None

    def __init__(self, network: Any) -> None:
        self._network = network

    def encode(self, images: Tensor) -> Tensor:
        with torch.inference_mode():
            return self._network.encode(images).float().clone()

    def decode(self, latents: Tensor, quality_index: int) -> Tensor:
        with torch.inference_mode():
            return self._network.decode(latents).float().clamp(0, 1)

    def unclamped(self, latents: Tensor) -> Tensor:
        """Decode with gradients, for calibration."""
        return self._network.decoder(latents)


class _WholeMeans(AdaptivePrior):
    """Predicts whole quantiser steps only: integers are those of a plain quantiser."""

    def __init__(self, *parts: Any, whole: Callable[[Tensor], Tensor]) -> None:
        """Wrap a prior; `whole` rounds means in sixteenths to whole quantiser steps."""
        super().__init__(*parts)
        self._whole = whole

    def _predicted(self, *arguments: Any) -> tuple[Tensor, Tensor]:
        means, tables = super()._predicted(*arguments)
        return self._whole(means) << 4, tables


WAYS_TO_WHOLE: dict[str, Callable[[Tensor], Tensor]] = {
    "same": lambda means: (means + 8) >> 4,
    "to zero": lambda means: means.sign() * (means.abs() >> 4),
    "no means": torch.zeros_like,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("loader", type=Path)
    parser.add_argument("tested", type=Path, help="a folder of pictures")
    parser.add_argument("--photographs", type=Path, help="what the bundle is calibrated and fitted on")
    parser.add_argument("--work", type=Path, required=True, help="where the two bundles are kept")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--pictures", type=int, default=0, help="limit to fit on; 0: as time allows, or all")
    parser.add_argument("--width", type=int, default=FitConfig.width, help="of the fitted prior's network")
    parser.add_argument("--fitted", action="store_true", help="take the bundles in --work as they are")
    parser.add_argument("--quality", type=float, nargs="+", default=[10, 30, 50, 70, 90])
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--no-pixels", action="store_true", help="leave PSNR and LPIPS out")
    parser.add_argument("--priors-only", action="store_true", help="leave out all but the two priors' bytes")
    options = parser.parse_args()
    options.no_pixels |= options.priors_only
    network = _loaded(options.loader)
    loading.AUTOENCODERS["foreign"] = lambda *_: Foreign(network)
    adaptive, fitted = options.work / "adaptive", options.work / "fitted"
    if not options.fitted:
        _make(network, adaptive, options.photographs)
        shutil.rmtree(fitted, ignore_errors=True)
        shutil.copytree(adaptive, fitted)
        config = FitConfig(
            minutes=options.minutes, num_steps=options.steps, pictures=options.pictures, width=options.width
        )
        result = fit_prior(store.read_manifest(fitted), [options.photographs], config, device="cpu", say=print)
        print(f"fitted: {result.num_steps} steps on {result.pictures} photographs")
    codecs = {"adaptive": Codec(adaptive, device="cpu", precision="float32")}
    if (fitted / store.MANIFEST).exists():
        codecs["fitted"] = Codec(fitted, device="cpu", precision="float32")
    rows: list[Row] = []
    sources = collect([options.tested])[: options.images]
    for source in sources:
        rows += _measured(source, codecs, options)
        print(f"{source.name} done", file=sys.stderr, flush=True)
    with (options.work / "results.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    print(f"{len(sources)} pictures; means")
    for quality in options.quality:
        _summary(quality, [row for row in rows if row[1] == quality])
    _timing()
    return 0


def _loaded(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("foreign_loader", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load()


def _make(network: Any, folder: Path, photographs: Path) -> None:
    autoencoder: Any = Foreign(network)
    pictures = calibration.pictures_from(next(p for p in sorted([photographs, *photographs.rglob("*")]) if _holds(p)))
    gain, inverse_gain = calibration.gain_rows(calibration.measure(autoencoder, pictures), autoencoder.factor)
    write_bundle(
        folder,
        name="foreign",
        autoencoder="foreign",
        configuration={"latent_channels": autoencoder.channels, "factor": autoencoder.factor},
        weights={name: value.contiguous() for name, value in network.state_dict().items()},
        prior=adaptive_prior(autoencoder.channels, gain, inverse_gain),
        description={},
    )


def _holds(folder: Path) -> bool:
    return folder.is_dir() and any(path.is_file() for path in folder.iterdir())


def _measured(source: Source, codecs: Mapping[str, Codec], options: argparse.Namespace) -> list[Row]:
    original = centre_crop(read(source), 512)
    any_codec = next(iter(codecs.values()))
    picture = read_picture(original)
    [latents] = any_codec._latents([picture])
    rows: list[Row] = []
    nothing = (float("nan"),) * 2
    for quality in options.quality:
        quality_index = round(2 * quality)
        scaled = latents * any_codec._model.quantiser.gain[quality_index][:, None, None]
        whole = scaled.round()
        error = float((whole - scaled).square().mean())
        if not options.priors_only:
            others = _classic(whole.to(torch.int64).numpy()) | {
                way: _same_integers(whole, way) for way in WAYS_TO_WHOLE
            }
            rows += [(source.name, quality, name, size, error, *nothing) for name, size in others.items()]
        for name, codec in codecs.items():
            [coded] = grid.code(codec._model, latents[None], quality_index, Rounding())
            data = filed(codec._envelope(picture), quality_index, coded).to_bytes()
            symbols = codec.symbols(data)
            own = float((torch.from_numpy(symbols).float() / 16 - scaled).square().mean())
            figures = nothing
            if not options.no_pixels:
                decoded = np.asarray(codec.decode(data).convert("RGB"))
                figures = psnr(original, decoded), lpips(original, decoded)
            rows.append((source.name, quality, name, len(data), own, *figures))
    return rows


def _classic(whole: NDArray[np.int64]) -> dict[str, float]:
    """Return bytes of integers `[C, h, w]` in other formats; they fit in 8 bits."""
    assert np.abs(whole).max() < 128
    entropy = 0.0
    for channel in whole:
        counts = np.unique(channel, return_counts=True)[1]
        entropy -= float((counts * np.log2(counts / counts.sum())).sum()) / 8
    channels, height, width = whole.shape
    tiles = (whole + 128).astype(np.uint8).reshape(channels // 8, 8, height, width).transpose(0, 2, 1, 3)
    grey = Image.fromarray(np.ascontiguousarray(tiles.reshape(channels // 8 * height, 8 * width)))
    return {
        "zlib": len(zlib.compress(whole.astype(np.int8).tobytes(), 9)),
        "entropy": entropy,
        "png": _saved(grey, "PNG", optimize=True),
        "webp": _saved(grey.convert("RGB"), "WEBP", lossless=True, quality=100, method=6),
    }


def _saved(image: Image.Image, kind: str, **settings: Any) -> int:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return len(buffer.getvalue())


def _same_integers(whole: Tensor, way: str) -> int:
    """Return the adaptive prior's bytes for exactly these integers, and check them."""
    config = adaptive_config(whole.shape[0])
    tensors, tables = adaptive_prior_tensors(whole.shape[0])
    prior = _WholeMeans(config, tensors, tables, torch.device("cpu"), whole=WAYS_TO_WHOLE[way])
    shape = (1, *whole.shape[1:])
    coder = Coder(whole[None], prior.hyper_latents(whole[None], 0), tables)
    prior.walk(shape, 0, coder)
    [[block]] = coder.finish()
    assert torch.equal(prior.walk(shape, 0, Decoder([[block]], tables, prior.device))[0] >> 4, whole.long())
    return len(block)


def _summary(quality: float, rows: list[Row]) -> None:
    print(f"quality {quality:g}")
    means: dict[str, list[float]] = {}
    for name in dict.fromkeys(row[2] for row in rows):
        own = [row[3:] for row in rows if row[2] == name]
        means[name] = [statistics.fmean(values) for values in zip(*own, strict=True)]
    for name, (size, error, psnr_mean, lpips_mean) in means.items():
        compared = [other for other in ("entropy", "zlib", "adaptive") if other in means]
        shares = " ".join(f"{size / means[other][0] - 1:+7.1%} {other}" for other in compared)
        pixels = "" if math.isnan(psnr_mean) else f"  {psnr_mean:6.2f} dB {lpips_mean:.4f}"
        print(f"  {name:9} {size:9.1f} B  error {error:.4f}{pixels}  {shares}")


def _timing() -> None:
    """Print seconds each way of a block of smooth random latents, the best of three.

    The content of a prior has no influence on them.
    """
    for channels in (4, 32):
        random = torch.Generator().manual_seed(0)
        scaled = 2 * torch.nn.functional.avg_pool2d(torch.randn(1, channels, 66, 66, generator=random), 3, stride=1)
        adaptive = AdaptivePrior(adaptive_config(channels), *adaptive_prior_tensors(channels), torch.device("cpu"))
        network = PriorNetwork(prior_config(channels, FitConfig()), 0.0)
        learned = LearnedPrior(network.config, prior_tensors(network), gaussian_tables(scales()), torch.device("cpu"))
        for name, prior in (("adaptive", adaptive), ("learned", learned)):
            encoding, decoding = (min(times) for times in zip(*(_timed(prior, scaled) for _ in range(3)), strict=True))
            print(f"64x64x{channels}, {name}: encoding {encoding:.3f} s, decoding {decoding:.3f} s")


@torch.no_grad()
def _timed(prior: Prior, scaled: Tensor) -> tuple[float, float]:
    start = time.perf_counter()
    coder = Coder(scaled, prior.hyper_latents(scaled, 100), prior.tables)
    prior.walk((1, *scaled.shape[2:]), 100, coder)
    images = coder.finish()
    middle = time.perf_counter()
    prior.walk((1, *scaled.shape[2:]), 100, Decoder(images, prior.tables, scaled.device))
    return middle - start, time.perf_counter() - middle


if __name__ == "__main__":
    sys.exit(main())
