"""Shared weights: loaded once per folder, fingerprint, device and precision.

They live as long as any user holds them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakValueDictionary

import torch

from sdcodec.autoencoders.protocol import Autoencoder
from sdcodec.bundles import loading
from sdcodec.bundles.store import MANIFEST, Bundle, PriorEntry
from sdcodec.denoisers.protocol import Denoiser
from sdcodec.model import Model


@dataclass(frozen=True)
class _Place:
    """Folder and files of networks, with their device and precision.

    A folder that was written again has other stamps.
    """

    folder: str
    stamps: tuple[tuple[int, int], ...]
    device: torch.device
    dtype: torch.dtype
    offload: bool


_lock = threading.RLock()  # held while anything is loaded
_models: WeakValueDictionary[tuple[_Place, bytes], Model] = WeakValueDictionary()
_autoencoders: WeakValueDictionary[_Place, Autoencoder] = WeakValueDictionary()
_denoisers: WeakValueDictionary[_Place, Callable[[], Denoiser]] = WeakValueDictionary()


def load(bundle: Bundle, entry: PriorEntry, device: torch.device, dtype: torch.dtype, offload: bool = False) -> Model:
    """Return the bundle's model with one of its priors, loaded now or shared.

    Raises BundleError as `loading.load`.
    """
    place = _Place(str(bundle.folder.resolve()), _stamps(bundle), device, dtype, offload)
    with _lock:
        model = _models.get((place, entry.fingerprint))
        if model is None:
            autoencoder = _autoencoders.get(place)
            if autoencoder is None:
                autoencoder = loading.load_autoencoder(bundle, device, dtype)
                _autoencoders[place] = autoencoder
            denoiser = _denoisers.get(place)
            if denoiser is None and bundle.denoiser is not None:
                denoiser = _LoadOnce(bundle, place)
                _denoisers[place] = denoiser
            prior, quantiser = loading.load_prior(bundle, entry, device)
            model = Model(autoencoder, quantiser, prior, denoiser)
            _models[place, entry.fingerprint] = model
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


def _stamps(bundle: Bundle) -> tuple[tuple[int, int], ...]:
    """Return time and size of the networks' files; missing files have no stamp."""
    names = [MANIFEST, bundle.autoencoder_file] + ([bundle.denoiser.file] if bundle.denoiser else [])
    paths = [bundle.folder / name for name in names]
    found = [path.stat() for path in paths if path.exists()]
    return tuple((own.st_mtime_ns, own.st_size) for own in found)
