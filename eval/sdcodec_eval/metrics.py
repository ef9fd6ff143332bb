"""Metrics between two 8-bit RGB images, uint8 `[H, W, 3]`."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_msssim import ms_ssim as pytorch_ms_ssim
from skimage.metrics import structural_similarity

from sdcodec.measures import tensor
from sdcodec.perceptual.dists import DISTS
from sdcodec.perceptual.lpips import LPIPS
from sdcodec.perceptual.vgg import read_vgg16

Pixels = NDArray[np.uint8]
MOST_KEPT = 3 << 21  # samples of an image whose activations, a gigabyte then, are kept
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, full range, as in JFIF


def psnr_y(one: Pixels, other: Pixels) -> float:
    """Compute the PSNR of the luma in dB; BT.601, full range, not rounded."""
    return _decibels((one.astype(np.float64) - other) @ LUMA)


def ssim(one: Pixels, other: Pixels) -> float:
    """Compute SSIM (Wang et al., 2004), the mean over the channels.

    The implementation is scikit-image, with the paper's Gaussian window.
    """
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


def ms_ssim(one: Pixels, other: Pixels) -> float:
    """Compute MS-SSIM (Wang et al., 2003) on RGB, with five scales.

    The implementation is pytorch-msssim, as in CompressAI; sides have at least 161 pixels.
    """
    x, y = (torch.from_numpy(pixels.astype(np.float64)).permute(2, 0, 1)[None] for pixels in (one, other))
    with torch.inference_mode():
        return float(pytorch_ms_ssim(x, y, data_range=255))


def lpips_vgg(one: Pixels, other: Pixels, weights: Path) -> float:
    """Compute LPIPS 0.1 with VGG-16, in float32; weights: a file for `read_vgg16`."""
    return _vgg(weights).distance(one, other)


def dists(one: Pixels, other: Pixels, weights: Path) -> float:
    """Compute DISTS (Ding et al., 2020), in float32, at full size.

    weights: a file for `read_vgg16`.
    """
    return _dists(weights).distance(one, other)


def _decibels(difference: NDArray[np.float64]) -> float:
    error = float(np.mean(difference**2))
    return 10 * math.log10(255**2 / error) if error else math.inf


class _Compared:
    """Distance over VGG-16, of many images from one original.

    Its activations are kept, so its pixels must not change in between.
    """

    def __init__(self, network: LPIPS | DISTS) -> None:
        self._network = network
        self._original: Pixels | None = None
        self._activations: list[torch.Tensor] = []

    @torch.inference_mode()
    def distance(self, original: Pixels, other: Pixels) -> float:
        if original.size > MOST_KEPT:
            return float(self._network.distance(tensor(other), tensor(original)))
        if self._original is not original:
            self._original, self._activations = original, self._network.activations(tensor(original))
        return float(self._network.distance(tensor(other), self._activations))


@cache
def _vgg(weights: Path) -> _Compared:
    return _Compared(LPIPS("vgg", read_vgg16(weights)))


@cache
def _dists(weights: Path) -> _Compared:
    return _Compared(DISTS(read_vgg16(weights)))
