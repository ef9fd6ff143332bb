"""Convert a bundle of layout 1 to layout 2, in place or to another folder.

    python benchmarks/convert_bundle.py FOLDER [OUT]

Layout 1 has the class "tiny" and no configuration of the prior. Weights, priors and fingerprints stay as they are:
only the manifest is written anew, and checked by loading the model.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdcodec.autoencoders.conv import FACTOR
from sdcodec.bundles import loading, store
from sdcodec.priors.adaptive import AdaptiveConfig
from sdcodec.priors.config import PriorConfig

DROPPED = ("expansion", "kernel", "block", "direct")  # settings that layout 2 has no choice for


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path, nargs="?")
    options = parser.parse_args()
    folder = options.out or options.folder
    if options.out is not None:
        shutil.copytree(options.folder, folder)
    path = folder / store.MANIFEST
    manifest = json.loads(path.read_text(encoding="utf-8"))
    if manifest["layout"] != 1:
        raise SystemExit(f"{path}: layout {manifest['layout']}; only layout 1 can be converted")
    path.write_text(json.dumps(converted(manifest, folder), indent=2) + "\n", encoding="utf-8")
    bundle = store.read_manifest(folder)
    for entry in bundle.priors:
        loading.load(bundle, entry, torch.device("cpu"), torch.float32)
        print(f"{folder}: prior {entry.kind}, fingerprint {entry.fingerprint.hex()[:8]}")


def converted(manifest: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the manifest of layout 2 for the bundle of layout 1 in a folder."""
    autoencoder = manifest["autoencoder"]
    values = dict(autoencoder["configuration"])
    kind = autoencoder["class"]
    if kind == "tiny":
        if values.get("block", "plain") != "plain" or not values.get("direct", True):
            raise SystemExit(f"{folder}: separable blocks, or no linear paths; this version has no such networks")
        kind = "conv"
        values = {name: value for name, value in values.items() if name not in DROPPED} | {"factor": FACTOR}
    priors = []
    for entry in manifest["priors"]:
        tensors, _ = loading.prior_parts(loading.read_tensors(folder / entry["file"]))
        found = learned_config(tensors) if entry["class"] == "learned" else adaptive_config(tensors)
        priors.append(entry | {"configuration": asdict(found)})
    return manifest | {
        "layout": 2,
        "autoencoder": autoencoder | {"class": kind, "configuration": values},
        "priors": priors,
    }


def learned_config(tensors: Mapping[str, Tensor]) -> PriorConfig:
    """Read the widths of a learned prior off the shapes of its tensors."""
    channels, width = tensors["context_multiplier"].shape[1], tensors["synthesise_3.weight"].shape[0]
    context = tensors["pass1.entry.weight"].shape[1] - width
    hyper, direct = tensors.get("hyper1.entry.weight"), tensors.get("pass1.direct.weight")
    blocks = sum(name.startswith("pass0.expand") and name.endswith(".weight") for name in tensors)
    return PriorConfig(
        latent_channels=channels,
        hyper_channels=tensors["hyper_multiplier"].shape[1],
        width=width,
        middle=tensors["synthesise_1.weight"].shape[0] // 4,
        expansion=tensors["pass0.expand0.weight"].shape[0] // width if blocks else PriorConfig.expansion,
        blocks=blocks,
        context_kernel=math.isqrt(context // channels),
        passes=sum(name.endswith(".cell") for name in tensors),
        hyper_context=0 if hyper is None else hyper.shape[0],
        direct_kernel=0 if direct is None else math.isqrt(direct.shape[1] // channels),
    )


def adaptive_config(tensors: Mapping[str, Tensor]) -> AdaptiveConfig:
    """Read the configuration of an adaptive prior off the shapes of its tensors."""
    regimes, lattices, _ = tensors["mean_weights"].shape
    return AdaptiveConfig((tensors["side_table"].shape[0] - 1 - lattices) // 2, regimes)


if __name__ == "__main__":
    main()
