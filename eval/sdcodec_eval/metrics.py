"""Distances between two 8-bit RGB pictures, uint8 `[H, W, 3]` each."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from sdcodec.perceptual.lpips import LPIPS

Pixels = NDArray[np.uint8]


def psnr(one: Pixels, other: Pixels) -> float:
    """Peak signal-to-noise ratio in dB, from the mean squared error over all samples; infinite for equal pictures."""
    error = float(np.mean((one.astype(np.float64) - other) ** 2))
    return 10 * math.log10(255**2 / error) if error else math.inf


def ssim(one: Pixels, other: Pixels) -> float:
    """Structural similarity (Wang et al., 2004), by scikit-image with the paper's Gaussian window, mean over channels."""
    return float(
        structural_similarity(
            one,
            other,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=255,
            channel_axis=2,
        )
    )


def lpips(one: Pixels, other: Pixels) -> float:
    """LPIPS 0.1 with AlexNet (Zhang et al., 2018), in float32; 0 for equal pictures, larger is worse."""
    with torch.inference_mode():
        return float(_network().distance(_tensor(one), _tensor(other)))


@cache
def _network() -> LPIPS:
    return LPIPS()


def _tensor(pixels: Pixels) -> torch.Tensor:
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].float() / 255
