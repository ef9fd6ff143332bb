"""Protocol of an autoencoder."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


class Autoencoder(Protocol):
    """Images ↔ latents, with `factor` x `factor` pixels per latent.

    `margin` is the reach of a pixel or a latent in either network, in latents; None if operations are global, so that
    windows have to be blended.
    """

    channels: int
    factor: int
    margin: int | None

    def encode(self, images: Tensor) -> Tensor:
        """Encode `[B, 3, H, W]` in [0, 1], sides multiples of `factor`.

        Returns float32 latents `[B, C, H/f, W/f]`.
        """
        ...

    def decode(self, latents: Tensor, quality_index: int) -> Tensor:
        """Decode float32 latents `[B, C, h, w]` at a quality index 0..200.

        Returns float32 images `[B, 3, fh, fw]` in [0, 1].
        """
        ...


@runtime_checkable
class DifferentiableAutoencoder(Autoencoder, Protocol):
    """An autoencoder through which latents can be refined (effort 4 and above).

    refinement_reach: limit of a latent's move, in quantiser steps. It is small if the encoder was trained with
        quantiser and prior: the best latents are near, and farther away only the metric improves. Otherwise infinite.
    refinement_lpips: weight of LPIPS beside squared error / 400.
    """

    refinement_reach: float
    refinement_lpips: float

    def decode_with_gradient(self, latents: Tensor, quality_index: int) -> Tensor:
        """Decode as `decode`, differentiable in the latents."""
        ...


@runtime_checkable
class RealismAutoencoder(Autoencoder, Protocol):
    """An autoencoder whose decoder can be told a realism.

    realism: the one that it decodes with, from 0 (faithful) to 1 (vivid); None if it has no vivid decoder.
    """

    realism: float | None

    def with_realism(self, realism: float) -> Autoencoder:
        """Return the same networks, decoding with another realism; only if it has one."""
        ...


@runtime_checkable
class ReducedAutoencoder(Autoencoder, Protocol):
    """An autoencoder that decodes to reduced images without computing the whole.

    scales: divisors of the sides, smaller images first; empty if this one has no heads for them.
    """

    scales: tuple[int, ...]

    def decode_reduced(self, latents: Tensor, quality_index: int, scale: int) -> Tensor:
        """Decode float32 latents `[B, C, h, w]` to 1/`scale` of the size, one of `scales`.

        Returns float32 images `[B, 3, fh/scale, fw/scale]` in [0, 1].
        """
        ...
