"""What the sampler asks of a denoiser. One convention for every family, k-diffusion's: D(x, sigma) → x0."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from sdcodec.denoisers.schedule import NoiseSchedule


class Denoiser(Protocol):
    """Guesses clean latents from noisy ones. `schedule` says which noise levels it knows."""

    schedule: NoiseSchedule

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """x = x0 + sigma · noise, float32 `[B, C, h, w]` in the scaled latent space, sigma > 0 → the guess at x0, likewise."""
        ...
