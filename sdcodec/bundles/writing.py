"""Writing a bundle folder: what training, and importing from elsewhere, end with."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from sdcodec.bundles.loading import PRIOR_PREFIX, TABLES_PREFIX, fingerprint, read_tensors
from sdcodec.bundles.store import LAYOUT, MANIFEST, Bundle, read_manifest
from sdcodec.coding.tables import FrequencyTables
from sdcodec.errors import BundleError, OutputError

AUTOENCODER_FILE, PRIOR_FILE = "autoencoder.safetensors", "prior.safetensors"
DENOISER_FILE = "denoiser.safetensors"


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
    tensors = _prior_file(prior_tensors, tables, gain, inverse_gain)
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
    return _write_manifest(folder, manifest)


def add_denoiser(bundle: Bundle, tensors: Mapping[str, Tensor], configuration: dict[str, Any]) -> Bundle:
    """Add the UNet that `sdcodec.denoisers.importing` read, replacing an earlier one; files stay valid.

    Raises BundleError if the UNet is made for latents with another number of channels.
    """
    channels = bundle.configuration["latent_channels"]
    if configuration["latent_channels"] != channels:
        raise BundleError(
            f"the UNet is made for {configuration['latent_channels']} latent channels, the model {bundle.name!r} has "
            f"{channels}; take the UNet that belongs to its autoencoder"
        )
    _replace(bundle.folder / DENOISER_FILE, dict(tensors))
    manifest = json.loads((bundle.folder / MANIFEST).read_text(encoding="utf-8"))
    manifest["denoiser"] = {"class": "unet", "file": DENOISER_FILE, "configuration": configuration}
    return _write_manifest(bundle.folder, manifest)


def add_prior(
    bundle: Bundle,
    *,
    prior: str,
    prior_tensors: Mapping[str, Tensor],
    tables: FrequencyTables,
    gain: Tensor,
    inverse_gain: Tensor,
) -> Bundle:
    """Puts a prior before the bundle's others: it encodes from now on; files coded with the others still decode.

    Its file is called after its fingerprint. A prior that the bundle has already only moves to the front. Nothing of the
    manifest but its list of priors changes. Raises BundleError where the folder cannot be read, OutputError where nothing
    can be written into it.
    """
    tensors = _prior_file(prior_tensors, tables, gain, inverse_gain)
    identity = fingerprint(tensors, bundle.configuration).hex()
    manifest = json.loads((bundle.folder / MANIFEST).read_text(encoding="utf-8"))
    known = [entry for entry in manifest["priors"] if entry["fingerprint"] == identity]
    entry = (
        known[0] if known else {"class": prior, "file": f"prior-{identity[:8]}.safetensors", "fingerprint": identity}
    )
    try:
        _replace(bundle.folder / entry["file"], tensors)
        manifest["priors"] = [entry, *(other for other in manifest["priors"] if other is not entry)]
        return _write_manifest(bundle.folder, manifest)
    except OSError as error:
        raise OutputError(
            f"{bundle.folder}: cannot be written ({error.strerror or error}); copy the model first"
        ) from error


def keep_priors(bundle: Bundle, source: Bundle) -> Bundle:
    """Puts the priors of `source` that `bundle` lacks behind its own: files coded with them decode with its decoder.

    Their latents have to mean to that decoder what they meant to the one of `source`.
    """
    manifest = json.loads((bundle.folder / MANIFEST).read_text(encoding="utf-8"))
    for entry in source.priors:
        identity = entry.fingerprint.hex()
        if bundle.prior_for(entry.fingerprint) is None:
            file = f"prior-{identity[:8]}.safetensors"
            _replace(bundle.folder / file, read_tensors(source.folder / entry.file))
            manifest["priors"].append({"class": entry.kind, "file": file, "fingerprint": identity})
    return _write_manifest(bundle.folder, manifest)


def _prior_file(
    prior_tensors: Mapping[str, Tensor], tables: FrequencyTables, gain: Tensor, inverse_gain: Tensor
) -> dict[str, Tensor]:
    tensors = {PRIOR_PREFIX + key: value for key, value in prior_tensors.items()}
    tensors |= {TABLES_PREFIX + key: torch.from_numpy(value) for key, value in tables.to_arrays().items()}
    tensors |= {"gain": gain.float(), "inverse_gain": inverse_gain.float()}
    return {key: value.cpu().contiguous() for key, value in tensors.items()}


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> Bundle:
    temporary = folder / f"{MANIFEST}.tmp"
    temporary.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, folder / MANIFEST)
    return read_manifest(folder)


def _replace(path: Path, tensors: dict[str, Tensor]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    save_file(tensors, temporary)  # straight to the disk: a UNet's bytes would not fit in memory twice
    umask = os.umask(0)
    os.umask(umask)
    temporary.chmod(0o666 & ~umask)  # save_file makes files that only their owner may read
    os.replace(temporary, path)
