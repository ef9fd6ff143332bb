"""Bundles to networks that run: the class that reads each file.

A new autoencoder or prior is one more entry in AUTOENCODERS or PRIORS.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sdcodec.autoencoders.conv import ConvConfig
from sdcodec.autoencoders.conv_autoencoder import ConvAutoencoder
from sdcodec.autoencoders.protocol import Autoencoder, RealismAutoencoder
from sdcodec.bundles.store import Bundle, PriorEntry
from sdcodec.coding.tables import FrequencyTables
from sdcodec.constants import QUALITY_LEVELS
from sdcodec.denoisers.protocol import Denoiser
from sdcodec.errors import BundleError
from sdcodec.model import Model, Quantiser
from sdcodec.priors.adaptive import AdaptiveConfig, AdaptivePrior
from sdcodec.priors.config import PriorConfig
from sdcodec.priors.learned import LearnedPrior
from sdcodec.priors.protocol import Prior
from sdcodec.shapes import check_shapes

Loader = TypeVar("Loader")
Config = TypeVar("Config")
PRIOR_PREFIX, TABLES_PREFIX = "prior.", "tables."


def load(bundle: Bundle, entry: PriorEntry, device: torch.device, dtype: torch.dtype) -> Model:
    """Read a bundle's autoencoder and one of its priors, without its UNet.

    Raises BundleError if files are missing, damaged, or do not fit the manifest: its configurations and fingerprint.
    """
    autoencoder = load_autoencoder(bundle, device, dtype)
    prior, quantiser = load_prior(bundle, entry, device)
    return Model(autoencoder, quantiser, prior)


def load_autoencoder(bundle: Bundle, device: torch.device, dtype: torch.dtype) -> Autoencoder:
    """Read a bundle's autoencoder. Raises BundleError as `load`."""
    path = bundle.folder / bundle.autoencoder_file
    weights = read_tensors(path)
    loader = _choose(AUTOENCODERS, bundle.autoencoder, bundle)
    with _naming(path):
        autoencoder = loader(bundle.configuration, weights, device, dtype)
        if bundle.default_realism is not None:
            assert isinstance(autoencoder, RealismAutoencoder)  # `read_manifest` has compared it with the configuration
            autoencoder = autoencoder.with_realism(bundle.default_realism)
    if (autoencoder.channels, autoencoder.factor) != (bundle.channels, bundle.factor):
        raise BundleError(
            f"{bundle.folder}: the configuration declares {bundle.channels} channels at 1/{bundle.factor}, the autoencoder "
            f"has {autoencoder.channels} at 1/{autoencoder.factor}; add the model again"
        )
    return autoencoder


def load_prior(bundle: Bundle, entry: PriorEntry, device: torch.device) -> tuple[Prior, Quantiser]:
    """Read one of a bundle's priors and its quantiser. Raises BundleError as `load`."""
    path = bundle.folder / entry.file
    tensors = read_tensors(path)
    found = fingerprint(tensors, bundle.channels, bundle.factor)
    if found != entry.fingerprint:
        raise BundleError(
            f"{path}: fingerprint {found.hex()[:8]}, the manifest says {entry.fingerprint.hex()[:8]}; "
            f"the model {bundle.name!r} is damaged, install it again"
        )
    rows = (QUALITY_LEVELS, bundle.channels)
    other = {name: value for name, value in tensors.items() if not name.startswith((PRIOR_PREFIX, TABLES_PREFIX))}
    loader = _choose(PRIORS, entry.kind, bundle)
    with _naming(path):
        check_shapes("quantiser", {"gain": rows, "inverse_gain": rows}, other)
        own, tables = prior_parts(tensors)
        prior = loader(entry.configuration, own, tables, device)
    if prior.channels != bundle.channels:
        raise BundleError(
            f"{path}: a prior for {prior.channels} channels, the autoencoder has {bundle.channels}; install the model again"
        )
    return prior, Quantiser(tensors["gain"].to(device), tensors["inverse_gain"].to(device))


def load_denoiser(bundle: Bundle, device: torch.device, dtype: torch.dtype, offload: bool = False) -> Denoiser:
    """Read a bundle's UNet. Raises BundleError if it is damaged or unknown."""
    entry = bundle.denoiser
    assert entry is not None  # its callers have checked
    path = bundle.folder / entry.file
    loader = _choose(DENOISERS, entry.kind, bundle)
    with _naming(path):
        return loader(entry.configuration, read_tensors(path), device, dtype, offload)


def prior_parts(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], FrequencyTables]:
    """Split a prior's file into its tensors, by their own names, and frozen tables.

    Raises BundleError if the tables are missing or broken.
    """
    tables = {TABLES_PREFIX + name for name in ("radii", "frequencies")}
    if missing := sorted(tables - set(tensors)):
        raise BundleError(f"the prior has no tensor {missing[0]!r}; the bundle is incomplete, install it again")
    own = {name.removeprefix(PRIOR_PREFIX): value for name, value in tensors.items() if name.startswith(PRIOR_PREFIX)}
    radii, frequencies = (tensors[TABLES_PREFIX + name].numpy() for name in ("radii", "frequencies"))
    return own, FrequencyTables.from_arrays(radii, frequencies)


def fingerprint(tensors: Mapping[str, Tensor], channels: int, factor: int) -> bytes:
    """Return the SHA-256 of everything that decides the meaning of symbols.

    That is the integer prior, the tables, the gains and the shape of the latents. Left out are parts that can be
    trained further without harm to files: the encoder's part of the prior (`analyse...`) and the decoder with its
    inverse gains.
    """
    digest = hashlib.sha256(f"latents {channels} at 1/{factor}\n".encode())
    for name in sorted(tensors):
        if name.startswith(PRIOR_PREFIX + "analyse") or name == "inverse_gain":
            continue
        tensor = tensors[name].cpu().contiguous()
        digest.update(f"{name} {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.digest()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a bundle's file of weights. Raises BundleError if it is missing or damaged."""
    try:
        return load_file(path)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror or error}); install the model again") from error
    except SafetensorError as error:
        raise BundleError(f"{path}: damaged ({error}); install the model again") from error


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the file's name before the message of a BundleError."""
    try:
        yield
    except BundleError as error:
        message = str(error)
        raise BundleError(message if message.startswith(str(path)) else f"{path}: {message}") from error


def _choose(loaders: Mapping[str, Loader], name: str, bundle: Bundle) -> Loader:
    if name not in loaders:
        raise BundleError(f"{bundle.folder}: the class {name!r} is not known; a newer sdcodec may read this model")
    return loaders[name]


def configured(part: str, kind: Callable[..., Config], values: Mapping[str, Any]) -> Config:
    """Build a configuration from a manifest's values.

    Raises BundleError for unknown or missing names, and values that are no whole numbers.
    """
    try:
        config = kind(**values)
    except (TypeError, ValueError) as error:
        raise BundleError(
            f"the {part}'s configuration is of another version ({error}); install the model again"
        ) from error
    if wrong := [name for name, value in values.items() if type(value) is not int or value < 0]:
        raise BundleError(f"the {part}'s configuration has no whole number for {wrong[0]!r}; install the model again")
    return config


def _conv(
    configuration: Mapping[str, Any], weights: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype
) -> Autoencoder:
    own = {name: value for name, value in configuration.items() if name != "factor"}
    return ConvAutoencoder(configured("autoencoder", ConvConfig, own), weights, device, dtype)


def _diffusers(
    configuration: Mapping[str, Any], weights: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype
) -> Autoencoder:
    from sdcodec.autoencoders import diffusers  # an optional dependency, slow to import

    return diffusers.load(configuration, weights, device, dtype)


def _learned(
    configuration: Mapping[str, Any], tensors: Mapping[str, Tensor], tables: FrequencyTables, device: torch.device
) -> Prior:
    return LearnedPrior(configured("prior", PriorConfig, configuration), tensors, tables, device)


def _adaptive(
    configuration: Mapping[str, Any], tensors: Mapping[str, Tensor], tables: FrequencyTables, device: torch.device
) -> Prior:
    return AdaptivePrior(configured("prior", AdaptiveConfig, configuration), tensors, tables, device)


def _unet(
    configuration: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    device: torch.device,
    dtype: torch.dtype,
    offload: bool,
) -> Denoiser:
    from sdcodec.denoisers.unet import unet_denoiser  # it imports diffusers

    return unet_denoiser(configuration, tensors, device, dtype, offload)


AUTOENCODERS: dict[str, Callable[[Mapping[str, Any], Mapping[str, Tensor], torch.device, torch.dtype], Autoencoder]] = {
    "conv": _conv,
    "diffusers": _diffusers,
}
PRIORS: dict[str, Callable[[Mapping[str, Any], Mapping[str, Tensor], FrequencyTables, torch.device], Prior]] = {
    "adaptive": _adaptive,
    "learned": _learned,
}
DENOISERS: dict[str, Callable[[Mapping[str, Any], Mapping[str, Tensor], torch.device, torch.dtype, bool], Denoiser]] = {
    "unet": _unet,
}
