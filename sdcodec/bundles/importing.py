"""`models add`: a bundle from a diffusers folder, with measured quantiser steps.

Its prior needs no training.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdcodec import hardware
from sdcodec.autoencoders import diffusers
from sdcodec.bundles import calibration, diffusers_folder, origin, store
from sdcodec.bundles.unet_importing import import_unet
from sdcodec.bundles.writing import adaptive_prior, add_denoiser, write_bundle
from sdcodec.container import FACTORS
from sdcodec.errors import BundleError, OptionError
from sdcodec.files import replace_folder
from sdcodec.temporaries import remove_abandoned, temporary_folder

KEPT_EXACT = "bn."  # statistics, not weights: FLUX.2's latents are scaled with them
LICENCE_FILE = "LICENCE.txt"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def add(
    name: str,
    source: str,
    *,
    unet: bool = False,
    revision: str | None = None,
    subfolder: str | None = None,
    dtype: str | None = None,
    calibrate: Path | None = None,
    force: bool = False,
) -> store.Bundle:
    """Make a bundle under `$SDCODEC_HOME` from a diffusers autoencoder or pipeline.

    name: of the bundle.
    source: a folder as diffusers writes it, or OWNER/NAME on the hub. revision: a branch, tag or commit there.
    subfolder: folder of the autoencoder in it; by default `vae` if it exists, or else the folder itself.
    dtype: type of the stored weights: float32, bfloat16, float16; by default unchanged.
    unet: also store the pipeline's UNet, for denoising. calibrate: a folder of photographs to measure quantiser steps
        on.
    force: replace a bundle of this name; files that were coded with it may need it still.

    Raises OptionError, BundleError, ImageError, OutputError; nothing is left of a bundle that could not be finished.
    """
    target = _target(name, force)
    wanted = None if dtype is None else _dtype(dtype)
    found = origin.find(source, revision=revision, unet=unet, half=wanted == torch.float16)
    folder = _autoencoder_folder(found, subfolder)
    settings = diffusers_folder.read_json(folder / diffusers_folder.CONFIGURATION)
    family_name = str(settings.get("_class_name"))
    network = _network(folder, family_name, wanted)
    weights = _stored_weights(network)
    family = diffusers.FAMILIES[family_name](network)
    # Float32 on the CPU gives the same quantiser steps, and with them the same fingerprint, on every machine.
    autoencoder = diffusers.DiffusersAutoencoder(family, torch.device("cpu"), torch.float32)
    check_geometry(autoencoder)
    pictures = calibration.made_pictures() if calibrate is None else calibration.pictures_from(calibrate)
    gain, inverse_gain = calibration.gain_rows(calibration.measure(autoencoder, pictures), autoencoder.factor)
    prior = adaptive_prior(autoencoder.channels, gain, inverse_gain)
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(target.parent)
    with temporary_folder(target.parent) as place:
        work = place / name
        bundle = write_bundle(
            work,
            name=name,
            autoencoder="diffusers",
            configuration={
                "family": family_name,
                "latent_channels": autoencoder.channels,
                "factor": autoencoder.factor,
                # From the file: the default of the class is true even for networks that do not need it.
                "force_upcast": bool(settings.get("force_upcast", False)),
                "arguments": _arguments(network),
            },
            weights=weights,
            prior=prior,
            description=_description(found, weights, None if calibrate is None else len(pictures)),
        )
        if unet:
            _add_unet(bundle, found, wanted)
        if found.licence_file is not None:
            shutil.copyfile(found.licence_file, work / LICENCE_FILE)
        _target(name, force)  # another process may have added one meanwhile
        replace_folder(work, target)
    return store.read_manifest(target)


def check_geometry(autoencoder: diffusers.DiffusersAutoencoder) -> None:
    """Run a small image through the autoencoder.

    Raises BundleError if shapes differ from the declared ones.
    """
    factor, channels = autoencoder.factor, autoencoder.channels
    if factor not in FACTORS:
        raise BundleError(f"{factor} pixels a latent; files can hold {', '.join(map(str, sorted(FACTORS)))}")
    side = 4 * max(FACTORS)
    try:
        latents = autoencoder.encode(torch.full((1, 3, side, side), 0.5))
        images = autoencoder.decode(latents, 0)
    except (RuntimeError, ValueError, TypeError) as error:
        raise BundleError(f"the autoencoder cannot take a picture of {side} x {side} pixels: {error}") from error
    declared = (1, channels, side // factor, side // factor)
    if tuple(latents.shape) != declared:
        raise BundleError(
            f"the autoencoder's configuration declares {channels} channels at 1/{factor}, but {side} pixels became "
            f"{latents.shape[1]} channels of {latents.shape[2]} x {latents.shape[3]}; its config.json is of another model"
        )
    if images.shape[2:] != (side, side):
        raise BundleError(
            f"the autoencoder's decoder makes {images.shape[2]} x {images.shape[3]} pixels of {side} x {side}; "
            "its two halves do not belong together"
        )


def _target(name: str, force: bool) -> Path:
    if not _NAME.fullmatch(name):
        raise OptionError(f"{name!r} is no name for a model: letters, digits, dots, dashes and underscores, up to 100")
    if (store.SHIPPED / name).exists():
        raise OptionError(f"{name!r} comes with sdcodec; choose another name")
    target = store.home() / name
    if target.exists() and not force:
        raise BundleError(f"the model {name!r} exists already; choose another name, or give --force to replace it")
    return target


def _dtype(name: str) -> torch.dtype:
    if name not in hardware.DTYPES:
        raise OptionError(f"dtype {name!r} is unknown; choose {', '.join(hardware.DTYPES)}")
    return hardware.DTYPES[name]


def _autoencoder_folder(found: origin.Origin, subfolder: str | None) -> Path:
    if subfolder is not None:
        return found.folder / subfolder
    inside = found.folder / "vae"
    return inside if (inside / diffusers_folder.CONFIGURATION).is_file() else found.folder


def _network(folder: Path, name: str, wanted: torch.dtype | None) -> Any:
    """Load the network of the class `name` in the type of its stored weights."""
    kind = diffusers.network_class(name)
    variant, files = diffusers_folder.weight_files(folder, wanted)
    dtype = wanted or diffusers_folder.stored_dtype(files[0])
    network = diffusers_folder.load_network(kind, folder, dtype, variant)
    if network.config.get("in_channels", 3) != 3:
        raise BundleError(f"{folder}: an autoencoder of {network.config.in_channels} channels, not of pictures in RGB")
    return network


def _stored_weights(network: Any) -> dict[str, Tensor]:
    """Copy the weights for storage: computing in another precision changes no copy.

    Raises BundleError if they are not finite.
    """
    weights = {}
    for name, value in network.state_dict().items():
        kept = value.detach().clone().contiguous()
        if kept.is_floating_point():
            if not bool(torch.isfinite(kept).all()):
                raise BundleError(
                    f"the weight {name} exceeds {str(kept.dtype).removeprefix('torch.')}; use --dtype bfloat16"
                )
            if name.startswith(KEPT_EXACT):
                kept = kept.float()
        weights[name] = kept
    return weights


def _arguments(network: Any) -> dict[str, Any]:
    """Return the arguments of the network's class.

    They are its configuration without folders and versions.
    """
    known = inspect.signature(type(network).__init__).parameters
    return {key: list(v) if isinstance(v, tuple) else v for key, v in network.config.items() if key in known}


def _add_unet(bundle: store.Bundle, found: origin.Origin, wanted: torch.dtype | None) -> None:
    dtype = wanted
    if dtype is None:
        _, files = diffusers_folder.weight_files(found.folder / "unet")
        dtype = diffusers_folder.stored_dtype(files[0])
    tensors, configuration = import_unet(found.folder, dtype)
    add_denoiser(bundle, tensors, configuration)


def _description(found: origin.Origin, weights: Mapping[str, Tensor], photographs: int | None) -> dict[str, Any]:
    largest = max(weights.values(), key=lambda value: value.numel())
    described: dict[str, Any] = {
        "origin": found.name,
        "revision": found.revision,
        "licence": found.licence,
        "licence_link": found.licence_link,
        "dtype": str(largest.dtype).removeprefix("torch."),
        "calibration": "pictures made by sdcodec" if photographs is None else f"{photographs} photographs of the user",
        "made_with": {package: importlib.metadata.version(package) for package in ("sdcodec", "diffusers", "torch")},
    }
    return {key: value for key, value in described.items() if value is not None}
