"""Denoising of large latents in overlapping windows, so that memory stays bounded."""

from __future__ import annotations

from torch import Tensor

from sdcodec import blending
from sdcodec.denoisers.protocol import Denoiser

OVERLAP = 4  # a quarter of a window is shared with its neighbour


class WindowedDenoiser:
    """A denoiser that sees `size` x `size` latents at once and blends its results.

    `size` is that of the UNet's training. It blends at every denoising step (MultiDiffusion, Bar-Tal et al., 2023):
    neighbouring windows agree more from step to step.
    """

    def __init__(self, denoiser: Denoiser, size: int) -> None:
        self.denoiser, self.size = denoiser, size
        self.schedule = denoiser.schedule

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """See Denoiser."""
        rows, columns = (blending.spans(side, self.size, self.size // OVERLAP) for side in x.shape[2:])
        if len(rows) == len(columns) == 1:
            return self.denoiser(x, sigma)
        return blending.blend(
            rows,
            columns,
            1,
            lambda row, column: self.denoiser(x[:, :, row.start : row.end, column.start : column.end], sigma),
        )
