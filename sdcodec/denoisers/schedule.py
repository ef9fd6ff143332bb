"""Noise levels of a UNet: timesteps ↔ sigmas, from a scheduler's configuration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdcodec.errors import BundleError

# Defaults of diffusers' schedulers.
DEFAULTS: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "rescale_betas_zero_snr": False,
}
ZERO_SNR_LAST = (
    2.0**-24
)  # alphas_cumprod of the last timestep instead of 0, for which sigma is infinite; diffusers has the same


@dataclass(frozen=True)
class NoiseSchedule:
    """Standard deviations `sigmas` `[T]` of the noise at timesteps 0..T-1, ascending.

    They are relative to unscaled latents. `trained_timesteps`, ascending: the few of a distilled ("turbo") model;
    None for a model of all timesteps.
    """

    sigmas: NDArray[np.float64]
    trained_timesteps: tuple[int, ...] | None = None

    @property
    def smallest(self) -> float:
        """Sigma of timestep 0: the model was never trained on cleaner latents."""
        return float(self.sigmas[0])

    @property
    def largest(self) -> float:
        """Sigma of the last timestep."""
        return float(self.sigmas[-1])

    def sigma(self, timestep: float) -> float:
        """Return the sigma of a timestep, linear in log sigma between two of them.

        k-diffusion does the same.
        """
        return float(np.exp(np.interp(timestep, np.arange(len(self.sigmas)), np.log(self.sigmas))))

    def timestep(self, sigma: float) -> float:
        """Return the continuous timestep of a sigma, limited to the first and the last."""
        return float(np.interp(math.log(sigma), np.log(self.sigmas), np.arange(len(self.sigmas))))

    def walk(self, sigma: float, num_steps: int) -> list[float]:
        """Return the `num_steps` sigmas of a walk down from `sigma`.

        They are evenly spaced in timesteps, the first one being that of `sigma` (not above the largest). A distilled
        model starts at its next higher timestep and stops only at those it knows, so there may be fewer.
        """
        if self.trained_timesteps is None:
            start = self.timestep(sigma)
            return [self.sigma(start * (num_steps - i) / num_steps) for i in range(num_steps)]
        known = [self.sigma(timestep) for timestep in self.trained_timesteps]
        first = next((i for i, level in enumerate(known) if level >= sigma), len(known) - 1)
        downwards = known[first::-1]
        count = min(num_steps, len(downwards))
        return [downwards[i * len(downwards) // count] for i in range(count)]


def noise_schedule(configuration: Mapping[str, Any], trained_timesteps: Sequence[int] | None = None) -> NoiseSchedule:
    """Build a schedule: sigma = sqrt((1 - alphas_cumprod) / alphas_cumprod).

    Raises BundleError for an unknown beta schedule.
    """
    cumulative = alphas_cumprod(configuration)
    chosen = None if trained_timesteps is None else tuple(sorted(trained_timesteps))
    return NoiseSchedule(np.sqrt((1 - cumulative) / cumulative), chosen)


def alphas_cumprod(configuration: Mapping[str, Any]) -> NDArray[np.float64]:
    """Return the share of signal (in variance) at each timestep, `[T]`, descending."""
    values = DEFAULTS | {key: value for key, value in configuration.items() if key in DEFAULTS}
    cumulative = np.cumprod(1 - _betas(values), dtype=np.float64)
    return _zero_snr(cumulative) if values["rescale_betas_zero_snr"] else cumulative


def _betas(values: Mapping[str, Any]) -> NDArray[np.float64]:
    count, schedule = values["num_train_timesteps"], values["beta_schedule"]
    if values["trained_betas"] is not None:
        return np.asarray(values["trained_betas"], np.float64)
    if schedule == "linear":  # Ho et al., 2020
        return np.linspace(values["beta_start"], values["beta_end"], count)
    if schedule == "scaled_linear":  # Rombach et al., 2022: linear in the square root
        return np.linspace(values["beta_start"] ** 0.5, values["beta_end"] ** 0.5, count) ** 2
    if schedule == "squaredcos_cap_v2":  # Nichol and Dhariwal, 2021
        signal = np.cos((np.arange(count + 1) / count + 0.008) / 1.008 * math.pi / 2) ** 2
        return np.minimum(1 - signal[1:] / signal[:-1], 0.999)
    raise BundleError(
        f"the scheduler's beta_schedule {schedule!r} is not known; linear, scaled_linear and squaredcos_cap_v2 are"
    )


def _zero_snr(cumulative: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shift and scale so that the last timestep is pure noise.

    Lin et al., 2023, algorithm 1.
    """
    root = np.sqrt(cumulative)
    rescaled = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    rescaled[-1] = ZERO_SNR_LAST
    return rescaled
