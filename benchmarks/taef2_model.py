"""TAEF2, FLUX.2's small autoencoder, as a bundle: real latents to measure with.

Its weights are no part of the package: a loader, FILE.py with a function `load()`, returns the PyTorch module with
its weights.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from sdcodec import Codec
from sdcodec.autoencoders.diffusers import DiffusersAutoencoder
from sdcodec.bundles import calibration, loading, writing
from sdcodec.bundles.store import MANIFEST

CHANNELS, FACTOR = 32, 8


class Taef2Autoencoder:
    """TAEF2 in float32 behind the protocol of an autoencoder.

    Some of its blocks normalise globally, so windows are blended.
    """

    channels, factor, margin = CHANNELS, FACTOR, None
    refinement_reach = math.inf

    def __init__(self, network: nn.Module) -> None:
        self.network: Any = network.requires_grad_(False)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Encode `[B, 3, H, W]` to `[B, 32, H/8, W/8]`."""
        return self.network.encoder(images)

    @torch.no_grad()
    def decode(self, latents: Tensor, quality_index: int) -> Tensor:
        """Decode `[B, 32, h, w]` to `[B, 3, 8h, 8w]`."""
        return self.decode_with_gradient(latents, quality_index)

    def decode_with_gradient(self, latents: Tensor, quality_index: int) -> Tensor:
        """Decode as `decode`, differentiable."""
        return self.unclamped(latents).clamp(0, 1)

    def unclamped(self, latents: Tensor) -> Tensor:
        """Decode without limits, for calibration."""
        return self.network.decoder(latents)


def network(path: Path | None) -> nn.Module:
    """Load the published weights with the loader in `path`."""
    if path is None:
        raise SystemExit("--taef2 is missing; give the file of TAEF2's loader")
    specification = importlib.util.spec_from_file_location("taef2", path)
    if specification is None or specification.loader is None or not path.exists():
        raise SystemExit(f"{path}: no such Python file; give the file of TAEF2's loader")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return cast(nn.Module, module.load())


def codec(folder: Path, loader: Path | None) -> Codec:
    """Load the bundle in `folder`, made there if it is missing.

    It has calibrated quantiser steps and the adaptive prior.
    """
    model = network(loader)

    def load(
        configuration: Mapping[str, Any], weights: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype
    ) -> Taef2Autoencoder:
        return Taef2Autoencoder(model.to(device))

    loading.AUTOENCODERS["taef2"] = load
    if not (folder / MANIFEST).exists():
        autoencoder = cast(DiffusersAutoencoder, Taef2Autoencoder(model))  # it has the attributes that calibration uses
        gain, inverse_gain = calibration.gain_rows(
            calibration.measure(autoencoder, calibration.made_pictures()), FACTOR
        )
        writing.write_bundle(
            folder,
            name="taef2",
            autoencoder="taef2",
            configuration={"latent_channels": CHANNELS, "factor": FACTOR},
            weights={"none": torch.zeros(1)},
            prior=writing.adaptive_prior(CHANNELS, gain, inverse_gain),
            description={"origin": "madebyollin/taesd", "licence": "MIT"},
        )
    return Codec(folder, device="cpu", precision="float32")
