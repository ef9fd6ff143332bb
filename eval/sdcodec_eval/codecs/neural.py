"""Codec of the harness that runs sdcodec with any model and options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from sdcodec import BudgetError, Codec, OptionError
from sdcodec.bundles import store
from sdcodec.hardware import dtype
from sdcodec.options import check_realism
from sdcodec_eval.codecs.protocol import Pixels, Setting

RATE = {"quality", "target_bytes", "target_bpp"}  # set by the harness
# Arguments without effect on pixels that are given as an array, and one that changes their number.
NOT_OFFERED = RATE | {"metadata", "max_pixels", "frame", "allow_truncated", "scale"}


class Sdcodec:
    """sdcodec with a model and options; it meets a byte budget by its own search."""

    name, extension = "sdcodec", "sdc"
    qualities = tuple(half / 2 for half in range(201))

    def __init__(
        self, model: str = store.DEFAULT, device: str = "auto", precision: str = "auto", **options: Setting
    ) -> None:
        """Load the model.

        model, device, precision: arguments of `Codec`.
        options: keyword arguments of `Codec.encode` and `Codec.decode`, passed to the methods that have them.
        """
        encoding, decoding = _offered(Codec.encode), _offered(Codec.decode)
        if unknown := options.keys() - encoding - decoding:
            known = ", ".join(sorted({"model", "device", "precision"} | encoding | decoding))
            raise OptionError(f"sdcodec has no option {', '.join(sorted(unknown))}; choose from {known}")
        self.codec = Codec(model, device=device, precision=precision)
        default: Any = self.codec.default_realism
        realism: Any = options.get("realism", default)
        check_realism(realism, default)
        self._realism = realism
        self._encoding: dict[str, Any] = {key: value for key, value in options.items() if key in encoding}
        self._decoding: dict[str, Any] = {key: value for key, value in options.items() if key in decoding}
        self.settings: dict[str, Setting] = {
            "model": self.codec.name,
            "fingerprint": self.codec.fingerprint.hex(),
            "device": self.codec.device.type,
            "precision": str(dtype(precision, self.codec.device)).removeprefix("torch."),
            **({} if realism is None else {"realism": realism}),
            **options,
        }

    def encode(self, pixels: Pixels, quality: float) -> bytes:
        """Encode pixels to the bytes of a file."""
        return self.codec.encode(pixels, quality=quality, **self._encoding).data

    def encode_within(self, pixels: Pixels, limit: int) -> tuple[bytes, float] | None:
        """Encode at the highest quality of at most `limit` bytes; return file and quality."""
        try:
            encoded = self.codec.encode(pixels, target_bytes=limit, **self._encoding)
        except BudgetError:
            return None
        return encoded.data, encoded.quality

    def decode(self, data: bytes) -> Pixels:
        """Decode the bytes of a file to pixels."""
        return np.asarray(self.codec.decode(data, **self._decoding).convert("RGB"))

    def round_trip(self, pixels: Pixels) -> Pixels:
        """Run the autoencoder without quantisation."""
        return np.asarray(self.codec.round_trip(pixels, realism=self._realism))


def _offered(method: Callable[..., Any]) -> set[str]:
    parameters = inspect.signature(method).parameters.values()
    return {p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY} - NOT_OFFERED
