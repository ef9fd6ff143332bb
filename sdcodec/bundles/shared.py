"""Shared weights: loaded once per folder, fingerprint, device and precision.

They live as long as any user holds them.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakValueDictionary

import torch

from sdcodec.autoencoders.protocol import Autoencoder
from sdcodec.bundles import loading
from sdcodec.bundles.store import Bundle, PriorEntry
from sdcodec.denoisers.protocol import Denoiser
from sdcodec.model import Model


@dataclass(frozen=True)
class _Place:
    """Origin of networks, with their device and precision.

    A file that was written again has another stamp: its time and size.
    """

    path: str
    stamp: tuple[int, int] | None
    configuration: str
    device: torch.device
    dtype: torch.dtype
    offload: bool = False


_lock = threading.RLock()  # held while anything is loaded
_models: WeakValueDictionary[tuple[_Place, bytes, _Place | None], Model] = WeakValueDictionary()
_autoencoders: WeakValueDictionary[_Place, Autoencoder] = WeakValueDictionary()
_denoisers: WeakValueDictionary[_Place, _LoadOnce] = WeakValueDictionary()


def _after_fork() -> None:
    """Replace a lock that another thread may have held while this process was forked."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def load(bundle: Bundle, entry: PriorEntry, device: torch.device, dtype: torch.dtype, offload: bool = False) -> Model:
    """Return the bundle's model with one of its priors, loaded now or shared.

    Raises BundleError as `loading.load`.
    """
    settings = bundle.configuration | {"default_realism": bundle.default_realism}
    networks = _place(bundle, bundle.autoencoder_file, settings, device, dtype)
    with _lock:
        unet, denoiser = None, None
        if bundle.denoiser is not None:
            unet = _place(bundle, bundle.denoiser.file, bundle.denoiser.configuration, device, dtype)
            unet = replace(unet, offload=offload)
            denoiser = _denoisers.get(unet) or _LoadOnce(bundle, unet)
            _denoisers[unet] = denoiser
        key = (networks, entry.fingerprint, unet)
        model = _models.get(key)
        if model is None:
            autoencoder = _autoencoders.get(networks)
            if autoencoder is None:
                autoencoder = loading.load_autoencoder(bundle, device, dtype)
                _autoencoders[networks] = autoencoder
            prior, quantiser = loading.load_prior(bundle, entry, device)
            model = Model(autoencoder, quantiser, prior, denoiser)
            _models[key] = model
        return model


class _LoadOnce:
    """Reads a bundle's UNet at the first call."""

    def __init__(self, bundle: Bundle, place: _Place) -> None:
        self._bundle, self._place = bundle, place
        self._denoiser: Denoiser | None = None

    def __call__(self) -> Denoiser:
        with _lock:
            if self._denoiser is None:
                place = self._place
                self._denoiser = loading.load_denoiser(self._bundle, place.device, place.dtype, place.offload)
            return self._denoiser


def _place(
    bundle: Bundle, file: str, configuration: Mapping[str, Any], device: torch.device, dtype: torch.dtype
) -> _Place:
    path = bundle.folder / file
    stamp = None
    if path.exists():  # otherwise loading raises the error
        status = path.stat()
        stamp = status.st_mtime_ns, status.st_size
    return _Place(str(path.resolve()), stamp, json.dumps(configuration, sort_keys=True), device, dtype)
