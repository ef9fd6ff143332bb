"""Writing a bundle folder: what training, and importing from elsewhere, end with."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from sdcodec.bundles.loading import PRIOR_PREFIX, TABLES_PREFIX, fingerprint
from sdcodec.bundles.store import LAYOUT, MANIFEST, Bundle, read_manifest
from sdcodec.coding.tables import FrequencyTables

AUTOENCODER_FILE, PRIOR_FILE = "autoencoder.safetensors", "prior.safetensors"


def write_bundle(
    folder: Path,
    *,
    name: str,
    autoencoder: str,
    configuration: dict[str, Any],
    weights: Mapping[str, Tensor],
    prior: str,
    prior_tensors: Mapping[str, Tensor],
    tables: FrequencyTables,
    gain: Tensor,
    inverse_gain: Tensor,
    description: dict[str, Any],
) -> Bundle:
    """Writes weights first and the manifest last, so that a folder with a manifest is complete.

    `autoencoder` and `prior` name classes of `sdcodec.bundles.loading`; `description` is free: licence, figures, origin.
    """
    tensors = {PRIOR_PREFIX + key: value for key, value in prior_tensors.items()}
    tensors |= {TABLES_PREFIX + key: torch.from_numpy(value) for key, value in tables.to_arrays().items()}
    tensors |= {"gain": gain.float(), "inverse_gain": inverse_gain.float()}
    tensors = {key: value.cpu().contiguous() for key, value in tensors.items()}
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / AUTOENCODER_FILE, dict(weights))
    _replace(folder / PRIOR_FILE, tensors)
    manifest = {
        "layout": LAYOUT,
        "name": name,
        "autoencoder": {"class": autoencoder, "file": AUTOENCODER_FILE, "configuration": configuration},
        "priors": [{"class": prior, "file": PRIOR_FILE, "fingerprint": fingerprint(tensors, configuration).hex()}],
        "description": description,
    }
    temporary = folder / f"{MANIFEST}.tmp"
    temporary.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, folder / MANIFEST)
    return read_manifest(folder)


def _replace(path: Path, tensors: dict[str, Tensor]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(save(tensors))  # not save_file, which makes files that only their owner may read
    os.replace(temporary, path)
