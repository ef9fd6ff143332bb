"""Output of bundle folders: the last step of training and of importing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from sdcodec.bundles.loading import PRIOR_PREFIX, TABLES_PREFIX, fingerprint, read_tensors
from sdcodec.bundles.store import LAYOUT, MANIFEST, Bundle, read_manifest
from sdcodec.coding.tables import FrequencyTables
from sdcodec.errors import BundleError, OutputError
from sdcodec.files import atomic_write, write_whole
from sdcodec.priors.adaptive_tables import adaptive_config, adaptive_prior_tensors

AUTOENCODER_FILE, PRIOR_FILE = "autoencoder.safetensors", "prior.safetensors"
DENOISER_FILE = "denoiser.safetensors"


@dataclass(frozen=True)
class NewPrior:
    """A prior to be stored, with its quantiser.

    `kind` names its class in `sdcodec.bundles.loading`.
    """

    kind: str
    configuration: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    tables: FrequencyTables
    gain: Tensor
    inverse_gain: Tensor

    def stored(self) -> dict[str, Tensor]:
        """Return the tensors of the prior's file."""
        tensors = {PRIOR_PREFIX + key: value for key, value in self.tensors.items()}
        tensors |= {TABLES_PREFIX + key: torch.from_numpy(value) for key, value in self.tables.to_arrays().items()}
        tensors |= {"gain": self.gain.float(), "inverse_gain": self.inverse_gain.float()}
        return {key: value.cpu().contiguous() for key, value in tensors.items()}


def adaptive_prior(channels: int, gain: Tensor, inverse_gain: Tensor) -> NewPrior:
    """Return the adaptive prior for latents of `channels` channels, with a quantiser."""
    tensors, tables = adaptive_prior_tensors(channels)
    return NewPrior("adaptive", asdict(adaptive_config(channels)), tensors, tables, gain, inverse_gain)


def write_bundle(
    folder: Path,
    *,
    name: str,
    autoencoder: str,
    configuration: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    prior: NewPrior,
    description: Mapping[str, Any],
    default_realism: float | None = None,
) -> Bundle:
    """Write a bundle folder, weights first and the manifest last.

    An earlier manifest is deleted first; a folder with a manifest is therefore complete. `autoencoder` names a class of
    `sdcodec.bundles.loading`; its `configuration` has `latent_channels` and `factor`; `default_realism` belongs to one
    with `realism`. `description` is free: licence, figures, origin.
    """
    tensors = prior.stored()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    _replace(folder / AUTOENCODER_FILE, dict(weights))
    _replace(folder / PRIOR_FILE, tensors)
    identity = fingerprint(tensors, configuration["latent_channels"], configuration["factor"])
    entry = {"class": autoencoder, "file": AUTOENCODER_FILE, "configuration": dict(configuration)}
    manifest = {
        "layout": LAYOUT,
        "name": name,
        "autoencoder": entry if default_realism is None else entry | {"default_realism": default_realism},
        "priors": [_prior_entry(prior.kind, PRIOR_FILE, identity, prior.configuration)],
        "description": dict(description),
    }
    return _write_manifest(folder, manifest)


def set_default_realism(bundle: Bundle, realism: float) -> Bundle:
    """Store the realism, 0..1, that the bundle decodes with unless told otherwise.

    Raises BundleError if its decoder has none.
    """
    if bundle.default_realism is None:
        raise BundleError(f"{bundle.folder}: the decoder has no realism; train one with `realism = 1`")
    manifest = json.loads((bundle.folder / MANIFEST).read_text(encoding="utf-8"))
    manifest["autoencoder"]["default_realism"] = realism
    return _write_manifest(bundle.folder, manifest)


def add_denoiser(bundle: Bundle, tensors: Mapping[str, Tensor], configuration: dict[str, Any]) -> Bundle:
    """Add the UNet that `unet_importing` read, replacing an earlier one.

    Files stay valid. Raises BundleError if the UNet is made for latents with another number of channels.
    """
    channels = bundle.channels
    if configuration["latent_channels"] != channels:
        raise BundleError(
            f"the UNet is made for {configuration['latent_channels']} latent channels, the model {bundle.name!r} has "
            f"{channels}; take the UNet that belongs to its autoencoder"
        )
    _replace(bundle.folder / DENOISER_FILE, dict(tensors))
    manifest = json.loads((bundle.folder / MANIFEST).read_text(encoding="utf-8"))
    manifest["denoiser"] = {"class": "unet", "file": DENOISER_FILE, "configuration": configuration}
    return _write_manifest(bundle.folder, manifest)


def add_prior(bundle: Bundle, prior: NewPrior) -> Bundle:
    """Put a prior before the bundle's others, so that it encodes from now on.

    Files coded with the others still decode. Its file is named after its fingerprint. A prior that the bundle has
    already only moves to the front. Raises BundleError if the folder cannot be read, OutputError if it cannot be
    written.
    """
    tensors = prior.stored()
    identity = fingerprint(tensors, bundle.channels, bundle.factor)
    manifest = json.loads((bundle.folder / MANIFEST).read_text(encoding="utf-8"))
    known = [entry for entry in manifest["priors"] if entry["fingerprint"] == identity.hex()]
    file = f"prior-{identity.hex()[:8]}.safetensors"
    entry = known[0] if known else _prior_entry(prior.kind, file, identity, prior.configuration)
    try:
        _replace(bundle.folder / entry["file"], tensors)
        manifest["priors"] = [entry, *(other for other in manifest["priors"] if other is not entry)]
        return _write_manifest(bundle.folder, manifest)
    except OutputError as error:
        raise OutputError(f"{error}; or copy the model, and fit the copy") from error


def keep_priors(bundle: Bundle, source: Bundle) -> Bundle:
    """Put the priors of `source` that `bundle` lacks behind its own.

    Files coded with them decode with its decoder, to which the latents of both bundles have to mean the same.
    """
    manifest = json.loads((bundle.folder / MANIFEST).read_text(encoding="utf-8"))
    for entry in source.priors:
        if bundle.prior_for(entry.fingerprint) is None:
            file = f"prior-{entry.fingerprint.hex()[:8]}.safetensors"
            _replace(bundle.folder / file, read_tensors(source.folder / entry.file))
            manifest["priors"].append(_prior_entry(entry.kind, file, entry.fingerprint, entry.configuration))
    return _write_manifest(bundle.folder, manifest)


def _prior_entry(kind: str, file: str, identity: bytes, configuration: Mapping[str, Any]) -> dict[str, Any]:
    return {"class": kind, "file": file, "fingerprint": identity.hex(), "configuration": dict(configuration)}


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> Bundle:
    atomic_write(folder / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode(), force=True)
    return read_manifest(folder)


def _replace(path: Path, tensors: dict[str, Tensor]) -> None:
    # Directly to disk: a UNet's bytes would not fit in memory twice.
    write_whole(path, lambda temporary: save_file(tensors, temporary))
