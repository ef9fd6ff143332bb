"""Protocol of a denoiser: D(x, sigma) → x0, k-diffusion's convention."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from sdcodec.denoisers.schedule import NoiseSchedule


class Denoiser(Protocol):
    """Estimator of clean latents; `schedule` has its noise levels."""

    schedule: NoiseSchedule

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """Estimate x0 from x = x0 + sigma · noise, sigma > 0.

        Both are float32 `[B, C, h, w]` in the scaled latent space.
        """
        ...
