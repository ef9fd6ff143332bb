"""From a bundle on disk to networks that run: which class reads which files. A new autoencoder or prior is a line here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sdcodec.autoencoders.protocol import Autoencoder
from sdcodec.autoencoders.tiny import TinyAutoencoder, TinyConfig
from sdcodec.bundles.store import Bundle, PriorEntry
from sdcodec.coding.tables import FrequencyTables
from sdcodec.denoisers.protocol import Denoiser
from sdcodec.errors import BundleError
from sdcodec.priors.adaptive import AdaptivePrior
from sdcodec.priors.learned import LearnedPrior
from sdcodec.priors.protocol import Prior

Loader = TypeVar("Loader")
PRIOR_PREFIX, TABLES_PREFIX = "prior.", "tables."


@dataclass(frozen=True)
class Model:
    """A bundle in memory. `gain` and `inverse_gain` are float32 `[201, C]`: steps per unit of latent, and back."""

    autoencoder: Autoencoder
    prior: Prior
    gain: Tensor
    inverse_gain: Tensor


def load(bundle: Bundle, entry: PriorEntry, device: torch.device, dtype: torch.dtype) -> Model:
    """Reads the weights. Raises BundleError where files are missing, damaged, or not what the fingerprint says."""
    weights = read_tensors(bundle.folder / bundle.autoencoder_file)
    autoencoder = _choose(AUTOENCODERS, bundle.autoencoder, bundle)(bundle.configuration, weights, device, dtype)
    return with_prior(autoencoder, bundle, entry, device)


def with_prior(autoencoder: Autoencoder, bundle: Bundle, entry: PriorEntry, device: torch.device) -> Model:
    """The bundle's autoencoder, loaded before, with one of its priors. Raises BundleError as `load`."""
    tensors = read_tensors(bundle.folder / entry.file)
    found = fingerprint(tensors, bundle.configuration)
    if found != entry.fingerprint:
        raise BundleError(
            f"{bundle.folder / entry.file}: fingerprint {found.hex()[:8]}, the manifest says "
            f"{entry.fingerprint.hex()[:8]}; the model {bundle.name!r} is damaged, install it again"
        )
    prior = _choose(PRIORS, entry.kind, bundle)(tensors, device)
    return Model(autoencoder, prior, tensors["gain"].to(device), tensors["inverse_gain"].to(device))


def load_denoiser(bundle: Bundle, device: torch.device, dtype: torch.dtype, offload: bool = False) -> Denoiser:
    """Reads a bundle's UNet. Raises BundleError where it has none, or one that is damaged or unknown."""
    entry = bundle.denoiser
    if entry is None:
        raise BundleError(
            f"the model {bundle.name!r} has no UNet to denoise with; "
            "decode without denoising, or add a model that has one: sdcodec models add NAME --from FOLDER --unet"
        )
    loader = _choose(DENOISERS, entry.kind, bundle)
    return loader(entry.configuration, read_tensors(bundle.folder / entry.file), device, dtype, offload)


def prior_parts(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], FrequencyTables]:
    """A prior's file: the tensors of the prior by its own names, and the frozen tables."""
    own = {name.removeprefix(PRIOR_PREFIX): value for name, value in tensors.items() if name.startswith(PRIOR_PREFIX)}
    radii, frequencies = (tensors[TABLES_PREFIX + name].numpy() for name in ("radii", "frequencies"))
    return own, FrequencyTables.from_arrays(radii, frequencies)


def fingerprint(tensors: Mapping[str, Tensor], configuration: Mapping[str, Any]) -> bytes:
    """SHA-256 over what decides the meaning of symbols: integer prior, tables, gains, geometry of the latents.

    Left out is what may be trained further without harm to files: the encoder's part of the prior (`analyse...`), the
    decoder and its inverse gains.
    """
    channels, factor = configuration["latent_channels"], configuration.get("factor", 8)  # of `tiny`, 8 is implied
    digest = hashlib.sha256(f"latents {channels} at 1/{factor}\n".encode())
    for name in sorted(tensors):
        if name.startswith(PRIOR_PREFIX + "analyse") or name == "inverse_gain":
            continue
        tensor = tensors[name].cpu().contiguous()
        digest.update(f"{name} {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.digest()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A bundle's file of weights. Raises BundleError where it is missing or damaged."""
    try:
        return load_file(path)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror or error}); install the model again") from error
    except SafetensorError as error:
        raise BundleError(f"{path}: damaged ({error}); install the model again") from error


def _choose(loaders: Mapping[str, Loader], name: str, bundle: Bundle) -> Loader:
    if name not in loaders:
        raise BundleError(f"{bundle.folder}: the class {name!r} is not known; a newer sdcodec may read this model")
    return loaders[name]


def _tiny(
    configuration: Mapping[str, Any], weights: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype
) -> Autoencoder:
    try:
        config = TinyConfig(**configuration)
    except TypeError as error:
        raise BundleError(f"the configuration of the autoencoder is of another version: {error}") from error
    return TinyAutoencoder(config, weights, device, dtype)


def _diffusers(
    configuration: Mapping[str, Any], weights: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype
) -> Autoencoder:
    from sdcodec.autoencoders import diffusers  # only who uses such a model has it, and waits for its import

    return diffusers.load(configuration, weights, device, dtype)


def _learned(tensors: Mapping[str, Tensor], device: torch.device) -> Prior:
    return LearnedPrior(*prior_parts(tensors), device)


def _adaptive(tensors: Mapping[str, Tensor], device: torch.device) -> Prior:
    return AdaptivePrior(*prior_parts(tensors), device)


def _unet(
    configuration: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    device: torch.device,
    dtype: torch.dtype,
    offload: bool,
) -> Denoiser:
    from sdcodec.denoisers.unet import unet_denoiser  # diffusers comes with it

    return unet_denoiser(configuration, tensors, device, dtype, offload)


AUTOENCODERS: dict[str, Callable[[Mapping[str, Any], Mapping[str, Tensor], torch.device, torch.dtype], Autoencoder]] = {
    "tiny": _tiny,
    "diffusers": _diffusers,
}
PRIORS: dict[str, Callable[[Mapping[str, Tensor], torch.device], Prior]] = {"adaptive": _adaptive, "learned": _learned}
DENOISERS: dict[str, Callable[[Mapping[str, Any], Mapping[str, Tensor], torch.device, torch.dtype, bool], Denoiser]] = {
    "unet": _unet,
}
