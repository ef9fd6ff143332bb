"""sdcodec: a latent-space neural image codec.

>>> import sdcodec
>>> data = sdcodec.encode("photo.jpg", target_bytes=5000)      # doctest: +SKIP
>>> sdcodec.decode(data).save("photo.png")                     # doctest: +SKIP
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sdcodec.bundles import store
from sdcodec.errors import (
    BudgetError,
    BundleError,
    FormatError,
    ImageError,
    NotEnoughMemoryError,
    OptionError,
    OutputError,
    SdcodecError,
    TrainingError,
    UnsupportedVersionError,
)

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

    from sdcodec.bundles.store import Bundle, PriorEntry
    from sdcodec.codec import DEFAULT_QUALITY, Codec, Encoded
    from sdcodec.pixels import ImageSource

__all__ = [
    "DEFAULT_QUALITY",
    "BudgetError",
    "BundleError",
    "Codec",
    "Encoded",
    "FormatError",
    "ImageError",
    "NotEnoughMemoryError",
    "OptionError",
    "OutputError",
    "SdcodecError",
    "TrainingError",
    "UnsupportedVersionError",
    "decode",
    "encode",
]


def __getattr__(name: str) -> Any:
    # PyTorch takes a second to import: `sdcodec --help` and `sdcodec info` do without.
    if name in ("Codec", "Encoded", "DEFAULT_QUALITY"):
        from sdcodec import codec

        return getattr(codec, name)
    raise AttributeError(f"module 'sdcodec' has no attribute {name!r}")


def encode(
    image: ImageSource,
    *,
    quality: float | None = None,
    target_bytes: int | None = None,
    target_bpp: float | None = None,
    effort: int | None = None,
    mode: str = "latents",
    model: str | os.PathLike[str] = store.DEFAULT,
    device: str = "auto",
    precision: str = "auto",
    metadata: frozenset[str] = frozenset(),
    max_pixels: int | None = None,
) -> bytes:
    """One picture to the bytes of an `.sdc` file; see `Codec.encode` for the arguments and errors.

    The model stays loaded for the next call.
    """
    codec = _codec(os.fspath(model), device, precision)
    return codec.encode(
        image,
        quality=quality,
        target_bytes=target_bytes,
        target_bpp=target_bpp,
        effort=effort,
        mode=mode,
        metadata=metadata,
        max_pixels=max_pixels,
    ).data


def decode(
    data: bytes,
    *,
    model: str | os.PathLike[str] | None = None,
    device: str = "auto",
    precision: str = "auto",
    max_pixels: int | None = None,
    denoise: int = 0,
    strength: float | None = None,
    seed: int = 0,
) -> Image.Image:
    """The bytes of an `.sdc` file to a PIL image; see `Codec.decode`. The model is found by the fingerprint in the data.

    Raises FormatError for damaged data, BundleError where the model that wrote it is not there (or is not `model`).
    """
    from sdcodec.container import Container

    codec = _decoder(store.that_wrote(Container.from_bytes(data).header.fingerprint, model), device, precision)
    return codec.decode(data, max_pixels=max_pixels, denoise=denoise, strength=strength, seed=seed)


@lru_cache(maxsize=2)
def _codec(model: str, device: str, precision: str) -> Codec:
    from sdcodec.codec import Codec

    return Codec(model, device=device, precision=precision)


_decoders: dict[tuple[Path, tuple[PriorEntry, ...], str, str], Codec] = {}


def _decoder(bundle: Bundle, device: str, precision: str) -> Codec:
    from sdcodec.codec import Codec

    key = (bundle.folder, bundle.priors, device, precision)  # a fit may have given it another prior since
    if key not in _decoders:
        _decoders.clear()  # one at a time: models are large
        _decoders[key] = Codec(bundle.folder, device=device, precision=precision)
    return _decoders[key]
