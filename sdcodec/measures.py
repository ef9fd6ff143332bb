"""Distances between an image and its original, both 8-bit RGB, uint8 `[H, W, 3]`."""

from __future__ import annotations

import io
import math
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from sdcodec.perceptual.lpips import LPIPS

Pixels = NDArray[np.uint8]


def psnr(one: Pixels, other: Pixels) -> float:
    """Compute the PSNR in dB, from the MSE over all samples; inf for equal images."""
    squares = sum(  # by rows: both images as numbers of 64 bits would take 24 times their memory
        float(np.square(ours.astype(np.float64) - theirs).sum()) for ours, theirs in zip(one, other, strict=True)
    )
    return 10 * math.log10(255**2 * one.size / squares) if squares else math.inf


def lpips(one: Pixels, other: Pixels) -> float:
    """Compute LPIPS 0.1 with AlexNet (Zhang et al., 2018), in float32 on the CPU.

    Sides have at least 31 pixels.
    """
    with torch.inference_mode():
        return float(_alex().distance(tensor(one), tensor(other)))


def ssimulacra2(one: Pixels, other: Pixels) -> float:
    """Compute SSIMULACRA 2.1 by the package ssimulacra2; 100 for equal images."""
    from ssimulacra2 import compute_ssimulacra2

    return float(compute_ssimulacra2(_file(one), _file(other)))


def tensor(pixels: Pixels) -> torch.Tensor:
    """Return float32 `[1, 3, H, W]` in [0, 1]."""
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].float() / 255


def _file(pixels: Pixels) -> Any:
    """Return the pixels as a PPM file, the input of the package ssimulacra2."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PPM")
    file.seek(0)
    return file


@cache
def _alex() -> LPIPS:
    return LPIPS()
