"""Latents larger than what a UNet was trained on: overlapping windows, blended, so that memory stays bounded."""

from __future__ import annotations

import torch
from torch import Tensor

from sdcodec.denoisers.protocol import Denoiser

OVERLAP = 4  # a quarter of a window is shared with its neighbour


class WindowedDenoiser:
    """A denoiser that sees `size` x `size` latents at once, what its UNet was trained on, and blends guesses in overlaps.

    It does so at every step (MultiDiffusion, Bar-Tal et al., 2023): neighbouring windows agree more from step to step.
    """

    def __init__(self, denoiser: Denoiser, size: int) -> None:
        self.denoiser, self.size = denoiser, size
        self.schedule = denoiser.schedule

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """See Denoiser."""
        height, width = x.shape[2:]
        if height <= self.size and width <= self.size:
            return self.denoiser(x, sigma)
        blended, weights = torch.zeros_like(x), torch.zeros_like(x[:1, :1])
        for rows, row_weight in _windows(height, self.size):
            for columns, column_weight in _windows(width, self.size):
                weight = (row_weight[:, None] * column_weight).to(x.device)
                guess = self.denoiser(x[:, :, rows, columns], sigma)
                blended[:, :, rows, columns] += guess * weight
                weights[:, :, rows, columns] += weight
        return blended / weights


def _windows(length: int, size: int) -> list[tuple[slice, Tensor]]:
    """Windows over one side, evenly spread, each with its weights: a ramp over what it shares, 1 elsewhere.

    All are of full size, and share more instead of being smaller: a UNet does best at the size that it was trained on.
    """
    if length <= size:
        return [(slice(0, length), torch.ones(length))]
    overlap = size // OVERLAP
    count = -(-(length - overlap) // (size - overlap))
    starts = [round(i * (length - size) / (count - 1)) for i in range(count)]
    windows = []
    for i, start in enumerate(starts):
        place = torch.arange(size) + 0.5
        weight = torch.ones(size)
        if i > 0:
            weight = torch.minimum(weight, place / (starts[i - 1] + size - start))
        if i < count - 1:
            weight = torch.minimum(weight, (size - place) / (start + size - starts[i + 1]))
        windows.append((slice(start, start + size), weight))
    return windows
