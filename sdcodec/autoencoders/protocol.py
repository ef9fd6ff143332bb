"""What codec.py asks of an autoencoder."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


class Autoencoder(Protocol):
    """Images ↔ latents, each latent standing for `factor` x `factor` pixels.

    `margin` is how far, in latents, a pixel's or a latent's influence reaches in either network; None where operations
    are global and windows have to be blended.
    """

    channels: int
    factor: int
    margin: int | None

    def encode(self, images: Tensor) -> Tensor:
        """`[B, 3, H, W]` in [0, 1], sides multiples of `factor` → float32 latents `[B, C, H/f, W/f]`."""
        ...

    def decode(self, latents: Tensor, quality_index: int) -> Tensor:
        """Float32 latents `[B, C, h, w]` and the quality in half steps → float32 images `[B, 3, fh, fw]` in [0, 1]."""
        ...


@runtime_checkable
class DifferentiableAutoencoder(Autoencoder, Protocol):
    """An autoencoder that latents can be refined through while encoding (efforts from 4 up).

    `refinement_reach` is how far, in quantiser steps, refining may move a latent. It is small where the encoder was trained
    with quantiser and prior: the best latents are near, and farther away the metric is pleased and no others. Else infinite.
    `refinement_lpips` is what LPIPS weighs then beside squared error / 400. `quick_to_refine`: small pictures take seconds,
    so that they are refined where no effort is named (`sdcodec.effort`).
    """

    refinement_reach: float
    refinement_lpips: float
    quick_to_refine: bool

    def decode_with_gradient(self, latents: Tensor, quality_index: int) -> Tensor:
        """As `decode`, and differentiable in the latents."""
        ...
