"""Latents to pictures: realism of the decoder, and reduced size."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sdcodec import windowed
from sdcodec.autoencoders.protocol import Autoencoder, RealismAutoencoder, ReducedAutoencoder
from sdcodec.container import Container, Header
from sdcodec.hardware import without_denormals
from sdcodec.options import check_realism, check_scale
from sdcodec.pixels import Picture, unpack_alpha

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Rendering:
    """Choices of a file's reader.

    realism: 0..1, or None for the model's default. divisor: of the image's sides, which are rounded up: 1, 2, 4 or 8.
    """

    realism: float | None = None
    divisor: int = 1

    @classmethod
    def of(cls, realism: float | None, scale: float | Fraction, default_realism: float | None) -> Rendering:
        """Check a reader's choices, for a model with this default. Raises OptionError."""
        check_realism(realism, default_realism)
        return cls(realism, check_scale(scale))


WHOLE = Rendering()


@without_denormals()
def render(autoencoder: Autoencoder, latents: Tensor, header: Header, rendering: Rendering) -> Pixels:
    """Decode latents `[B, C, h, w]` to uint8 `[B, H, W, 3]`, without padding.

    At a reduced size, H and W are the sides divided and rounded up. An autoencoder that has a head for this size
    computes it directly; otherwise each pixel is the mean of a square of the whole image.
    """
    if rendering.realism is not None:
        assert isinstance(autoencoder, RealismAutoencoder)  # `Rendering.of` has checked
        autoencoder = autoencoder.with_realism(rendering.realism)
    quality_index, divisor = header.quality_index, rendering.divisor
    if isinstance(autoencoder, ReducedAutoencoder) and divisor in autoencoder.scales:
        pixels = windowed.decode_reduced(autoencoder, latents, quality_index, divisor)
        return pixels[:, : -(-header.height // divisor), : -(-header.width // divisor)]
    pixels = windowed.decode(autoencoder, latents, quality_index)[:, : header.height, : header.width]
    return pixels if divisor == 1 else np.stack([_reduced(own, divisor) for own in pixels])


def picture(pixels: Pixels, container: Container, rendering: Rendering) -> Picture:
    """Return decoded pixels `[H, W, 3]` with alpha and metadata of their file.

    Raises FormatError for a damaged alpha channel.
    """
    alpha = None
    if container.alpha is not None:
        alpha = _reduced(
            unpack_alpha(container.alpha, container.header.width, container.header.height), rendering.divisor
        )
    return Picture(pixels, alpha, container.icc, container.exif, container.xmp)


def _reduced(pixels: Pixels, divisor: int) -> Pixels:
    """Return the means of squares.

    Those at the far edges are the means of the pixels that exist.
    """
    return pixels if divisor == 1 else np.array(Image.fromarray(pixels).reduce(divisor))
