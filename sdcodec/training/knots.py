"""Parameters that depend on quality, interpolated linearly between knots."""

from __future__ import annotations

import torch
from torch import Tensor, nn

KNOT_COUNT = 6


class Knots(nn.Module):
    """`[channels]` values as a piecewise linear function of quality in 0..100."""

    def __init__(self, channels: int, count: int = KNOT_COUNT, start: float = 0.0, slope: float = 0.0) -> None:
        """Initialise the function to `start + slope * (quality/100 - 1/2)`."""
        super().__init__()
        line = start + slope * (torch.linspace(0, 1, count) - 0.5)
        self.values = nn.Parameter(line[:, None].repeat(1, channels))

    def forward(self, quality: Tensor) -> Tensor:
        """Return `[B, channels]` for qualities `[B]`."""
        count = self.values.shape[0]
        position = quality.float().clamp(0, 100) / 100 * (count - 1)
        places = torch.arange(count, device=position.device)
        weights = (1 - (position[:, None] - places).abs()).clamp(min=0)  # hat functions: at most two are not zero
        # Not as a product of matrices, for which autocast takes bfloat16.
        return (weights[:, :, None] * self.values).sum(1)
