"""sdcodec: a latent-space neural image codec.

>>> import sdcodec
>>> data = sdcodec.encode("photo.jpg", target_bytes=5000)      # doctest: +SKIP
>>> sdcodec.decode(data).save("photo.png")                     # doctest: +SKIP
"""

from __future__ import annotations

import importlib.metadata
import os
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from sdcodec.bundles import store
from sdcodec.errors import (
    BudgetError,
    BundleError,
    FormatError,
    FormatTypeError,
    ImageError,
    ImageTypeError,
    NotEnoughMemoryError,
    OptionError,
    OutputError,
    SdcodecError,
    SdcodecWarning,
    TargetError,
    TrainingError,
    UnsupportedVersionError,
)

if TYPE_CHECKING:
    from fractions import Fraction

    from PIL import Image

    from sdcodec.codec import DEFAULT_QUALITY, Codec
    from sdcodec.encoded import Encoded
    from sdcodec.pixels import ImageSource
    from sdcodec.sources import SdcSource

__all__ = [
    "DEFAULT_QUALITY",
    "BudgetError",
    "BundleError",
    "Codec",
    "Encoded",
    "FormatError",
    "FormatTypeError",
    "ImageError",
    "ImageTypeError",
    "NotEnoughMemoryError",
    "OptionError",
    "OutputError",
    "SdcodecError",
    "SdcodecWarning",
    "TargetError",
    "TrainingError",
    "UnsupportedVersionError",
    "decode",
    "encode",
    "register_pillow",
]


def __getattr__(name: str) -> Any:
    # PyTorch takes a second to import: `sdcodec --help` and `sdcodec info` do without.
    if name in ("Codec", "DEFAULT_QUALITY"):
        from sdcodec import codec

        return getattr(codec, name)
    if name == "Encoded":
        from sdcodec.encoded import Encoded

        return Encoded
    if name == "__version__":
        return importlib.metadata.version("sdcodec")
    raise AttributeError(f"module 'sdcodec' has no attribute {name!r}")


def encode(
    image: ImageSource,
    *,
    quality: float | None = None,
    target_bytes: int | None = None,
    target_bpp: float | None = None,
    target_lpips: float | None = None,
    target_psnr: float | None = None,
    target_ssimulacra2: float | None = None,
    effort: int = 0,
    mode: str = "latents",
    model: str | os.PathLike[str] = store.DEFAULT,
    device: str = "auto",
    precision: str = "auto",
    metadata: str | Iterable[str] = (),
    max_pixels: int | None = None,
    frame: int | None = None,
    allow_truncated: bool = False,
) -> bytes:
    """Encode an image to the bytes of an `.sdc` file, as `Codec.encode` does.

    The model stays loaded for the next calls of `encode` and `decode`.
    """
    return (
        _codec(model, device, precision)
        .encode(
            image,
            quality=quality,
            target_bytes=target_bytes,
            target_bpp=target_bpp,
            target_lpips=target_lpips,
            target_psnr=target_psnr,
            target_ssimulacra2=target_ssimulacra2,
            effort=effort,
            mode=mode,
            metadata=metadata,
            max_pixels=max_pixels,
            frame=frame,
            allow_truncated=allow_truncated,
        )
        .data
    )


def decode(
    data: SdcSource,
    *,
    model: str | os.PathLike[str] | None = None,
    device: str = "auto",
    precision: str = "auto",
    max_pixels: int | None = None,
    realism: float | None = None,
    scale: float | Fraction = 1,
    recover: bool = False,
    denoise: int = 0,
    strength: float | None = None,
    seed: int = 0,
) -> Image.Image:
    """Decode an `.sdc` file to a PIL image; see `Codec.decode`.

    data: the file's bytes, its path, or a file open for binary reading.

    The model is found by the fingerprint in the data. Raises FormatError for damaged data, BundleError if the model
    that wrote it is not installed (or is not `model`).
    """
    from sdcodec.container import Container
    from sdcodec.sources import naming, sdc_bytes

    with naming(data):
        content = sdc_bytes(data)
        bundle = store.that_wrote(Container.from_bytes(content, recover=recover).header.fingerprint, model)
        codec = _codec(bundle.folder, device, precision)
        return codec.decode(
            content,
            max_pixels=max_pixels,
            realism=realism,
            scale=scale,
            recover=recover,
            denoise=denoise,
            strength=strength,
            seed=seed,
        )


def register_pillow() -> None:
    """Register `.sdc` with Pillow, for `Image.open` and `Image.save`.

    The import of `sdcodec.pillow` does the same. Further calls change nothing, unless another plugin has taken the
    format since.
    """
    from sdcodec.pillow import register

    register()


KEPT_CODECS = 2  # that `encode` and `decode` keep loaded: models are large
_kept: dict[tuple[str, bytes, str, str], Codec] = {}  # the last used one last
_kept_lock = threading.Lock()


def _after_fork() -> None:
    """Replace a lock that another thread may have held while this process was forked."""
    global _kept_lock
    _kept_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _codec(model: str | os.PathLike[str], device: str, precision: str) -> Codec:
    """Return a Codec of this model as it is on disk now; loaded weights are shared."""
    from sdcodec.codec import Codec

    codec = Codec(model, device=device, precision=precision)
    key = (os.fspath(model), codec.fingerprint, device, precision)
    with _kept_lock:
        _kept.pop(key, None)
        _kept[key] = codec
        while len(_kept) > KEPT_CODECS:
            del _kept[next(iter(_kept))]
    return codec
