"""Compare the search for a target of quality with the best of all qualities.

    python benchmarks/targets.py FOLDER [--count 24] [--side 192] [--model base]

For each centre crop all 201 qualities are encoded, decoded and measured; then each target is searched for. Prints how
many qualities the found file is away from the smallest that reaches the target, and its bytes relative to that one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from sdcodec import Codec, TargetError
from sdcodec.bundles import store
from sdcodec.constants import QUALITY_LEVELS
from sdcodec.pixels import Picture, Pixels
from sdcodec.targets import METRICS, Target
from sdcodec_eval.pictures import centre_crop, collect, read

TARGETS = {"lpips": (0.2, 0.1, 0.05), "psnr": (28.0, 32.0, 36.0), "ssimulacra2": (20.0, 40.0, 60.0)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--side", type=int, default=192)
    parser.add_argument("--model", default=store.DEFAULT)
    options = parser.parse_args()
    codec = Codec(options.model, device="cpu", precision="float32")
    sources = collect([options.folder])
    rows: dict[str, list[tuple[int, float]]] = {name: [] for name in METRICS}
    beyond = dict.fromkeys(METRICS, 0)
    for source in sources[:: max(1, len(sources) // options.count)][: options.count]:
        pixels = centre_crop(read(source), options.side)
        sizes, values = _all(codec, pixels)
        for name, targets in TARGETS.items():
            for value in targets:
                target = Target(name, value, Picture(pixels))
                reaching = [i for i in range(QUALITY_LEVELS) if target.excess(values[name][i]) >= 0]
                try:
                    found = codec.encode(pixels, **{f"target_{name}": value})
                except TargetError:
                    assert not reaching
                    beyond[name] += 1
                    continue
                best = min(reaching, key=lambda index: (sizes[index], index))
                rows[name].append((round(2 * found.quality) - best, len(found.data) / sizes[best]))
        print(".", end="", flush=True)
    print()
    for name, own in rows.items():
        away = np.array([row[0] for row in own])
        excess = np.array([row[1] for row in own]) - 1
        print(
            f"{METRICS[name].title}: {len(own)} targets, {beyond[name]} out of reach; index away from the best: "
            + ", ".join(f"{step:+d}: {int((away == step).sum())}" for step in np.unique(away))
            + f"; bytes above the best: mean {100 * excess.mean():.2f}%, most {100 * excess.max():.2f}%"
        )


def _all(codec: Codec, pixels: Pixels) -> tuple[list[int], dict[str, list[float]]]:
    """Return the bytes and the metrics of every quality."""
    sizes: list[int] = []
    values: dict[str, list[float]] = {name: [] for name in METRICS}
    for index in range(QUALITY_LEVELS):
        data = codec.encode(pixels, quality=index / 2).data
        decoded = np.asarray(codec.decode(data).convert("RGB"))
        sizes.append(len(data))
        for name, metric in METRICS.items():
            values[name].append(metric.measure(pixels, decoded))
    return sizes, values


if __name__ == "__main__":
    main()
