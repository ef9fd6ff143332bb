"""Sampler: from latents with an error of known deviation to clean latents."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from sdcodec.denoisers.protocol import Denoiser


def denoise(
    latents: Tensor,
    error_std: float | Tensor,
    denoiser: Denoiser,
    num_steps: int,
    strength: float = 1.0,
    seed: int = 0,
) -> Tensor:
    """Treat the error as the denoiser's noise and remove it in a few steps.

    latents: float32 `[B, C, h, w]` in the scaled latent space. error_std: the standard deviation of their error, one
        number or one per channel `[C]`. num_steps: the largest number of denoising steps; a distilled model may need
        fewer.
    strength: factor on error_std, since the error of a quantiser is not white noise.
    seed: of the noise that is added for a distilled model; otherwise nothing is random.

    Returns latents of the same shape. If the error lies below the smallest sigma of the denoiser, and for 0 steps,
    they are unchanged.

    The walk is Euler's in sigma, which is DDIM's (Song et al., 2021) without noise: x ← x0 + sigma'/sigma · (x - x0).
    """
    deviations = (strength * torch.as_tensor(error_std, dtype=torch.float64)).cpu().expand(latents.shape[1])
    matched = math.sqrt(float(deviations.square().mean()))
    if num_steps == 0 or matched < denoiser.schedule.smallest:
        return latents
    sigmas = denoiser.schedule.walk(matched, num_steps)
    x = latents
    if denoiser.schedule.trained_timesteps is not None:
        x = x + _missing_noise(latents, deviations, sigmas[0], seed)
    for sigma, following in pairwise([*sigmas, 0.0]):
        clean = denoiser(x, sigma)
        x = clean + following / sigma * (x - clean) if following else clean
    return x


def _missing_noise(latents: Tensor, deviations: Tensor, sigma: float, seed: int) -> Tensor:
    """Return the noise that raises each channel's error to `sigma`.

    It is drawn on the CPU, whose generator is the same everywhere.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    noise = torch.randn(latents.shape, generator=generator, dtype=torch.float32)
    missing = (sigma**2 - deviations.square()).clamp_(min=0).sqrt_().float()
    return noise.mul_(missing[:, None, None]).to(latents.device)
