"""One picture through several codecs at equal bytes: sdcodec meets the budget, the others may use as much as it did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sdcodec import Codec
from sdcodec_eval.classic import ClassicCodec, decoded
from sdcodec_eval.metrics import lpips, psnr, ssim


@dataclass(frozen=True, eq=False)
class Row:
    """One codec's result. Without a file (`data` is None) the codec cannot go so low, and nothing is measured."""

    codec: str
    quality: float | None
    data: bytes | None
    pixels: NDArray[np.uint8] | None
    psnr: float | None = None
    ssim: float | None = None
    lpips: float | None = None

    @property
    def label(self) -> str:
        """Two lines for a picture."""
        if self.data is None:
            return f"{self.codec}: cannot reach this size"
        return f"{self.codec}, {len(self.data)} bytes\nPSNR {self.psnr:.2f} dB  LPIPS {self.lpips:.3f}"


def compare(image: Image.Image, budget: int, codec: Codec, others: Sequence[ClassicCodec]) -> list[Row]:
    """Rows for sdcodec and the others; metrics are of the pixels that are read back from the files."""
    image = image.convert("RGB")
    original = np.asarray(image)
    encoded = codec.encode(image, target_bytes=budget)
    pixels = np.asarray(codec.decode(encoded.data).convert("RGB"))
    rows = [_measured(f"sdcodec ({codec.name})", encoded.quality, encoded.data, original, pixels)]
    for other in others:
        found = other.best_within(image, len(encoded.data))
        if found is None:
            rows.append(Row(other.name, None, None, None))
        else:
            data, quality = found
            rows.append(_measured(other.name, quality, data, original, decoded(data)))
    return rows


def as_table(rows: Sequence[Row]) -> str:
    """A table in plain text."""
    lines = [f"{'codec':16} {'quality':>7} {'bytes':>7} {'PSNR':>7} {'SSIM':>7} {'LPIPS':>7}"]
    for row in rows:
        if row.data is None:
            lines.append(f"{row.codec:16} cannot reach this size")
        else:
            lines.append(
                f"{row.codec:16} {row.quality:7g} {len(row.data):7d} {row.psnr:7.2f} {row.ssim:7.4f} {row.lpips:7.4f}"
            )
    return "\n".join(lines)


def _measured(name: str, quality: float, data: bytes, original: NDArray[np.uint8], pixels: NDArray[np.uint8]) -> Row:
    return Row(name, quality, data, pixels, psnr(original, pixels), ssim(original, pixels), lpips(original, pixels))
