"""Adapters of networks that predict noise, velocity or the sample.

They are denoisers D(x, sigma) → x0, as k-diffusion has them. A network sees x · sqrt(alphas_cumprod) = x /
sqrt(sigma² + 1), and a timestep. Derivations: Karras et al., 2022, table 1; Salimans and Ho, 2022, appendix D, for v.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from sdcodec.denoisers.protocol import Denoiser
from sdcodec.denoisers.schedule import NoiseSchedule

Network = Callable[[Tensor, float], Tensor]  # scaled input float32 [B, C, h, w] and timestep → prediction, likewise


class PredictionDenoiser:
    """Base of the adapters: the network, its schedule, and the scaling of its input."""

    def __init__(self, network: Network, schedule: NoiseSchedule) -> None:
        self.network, self.schedule = network, schedule

    def predicted(self, x: Tensor, sigma: float) -> Tensor:
        """Return the network's output for x = x0 + sigma · noise."""
        return self.network(x / math.hypot(sigma, 1), self.schedule.timestep(sigma))


class EpsilonDenoiser(PredictionDenoiser):
    """The network predicts the noise."""

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """See Denoiser."""
        return x - sigma * self.predicted(x, sigma)


class VDenoiser(PredictionDenoiser):
    """The network predicts v.

    v = sqrt(alphas_cumprod) · noise - sqrt(1 - alphas_cumprod) · x0.
    """

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """See Denoiser."""
        return x / (sigma**2 + 1) - sigma / math.hypot(sigma, 1) * self.predicted(x, sigma)


class SampleDenoiser(PredictionDenoiser):
    """The network predicts x0."""

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """See Denoiser."""
        return self.predicted(x, sigma)


PREDICTIONS: dict[str, Callable[[Network, NoiseSchedule], Denoiser]] = {  # diffusers' names
    "epsilon": EpsilonDenoiser,
    "v_prediction": VDenoiser,
    "sample": SampleDenoiser,
}
