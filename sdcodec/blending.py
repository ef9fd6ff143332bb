"""Blending of overlapping windows, for networks with global operations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor


@dataclass(frozen=True)
class Span:
    """One side of a window, `[start, end)` in latents.

    Its weight rises from 0 over `rise` and falls to 0 over `fall`.
    """

    start: int
    end: int
    rise: tuple[int, int] | None = None
    fall: tuple[int, int] | None = None


def spans(length: int, size: int, overlap: int, guard: int = 0) -> list[Span]:
    """Cover `length` latents with evenly spread windows of `size`.

    Neighbours share at least `overlap`. Up to `size` there is one window. All are of full size and share more instead
    of being
    smaller: a network does best at the size that it was trained on. The outer `guard` latents of a shared part have
    weight 0: there a network meets an edge that the image does not have.
    """
    if length <= size:
        return [Span(0, length)]
    count = -(-(length - overlap) // (size - overlap))
    starts = [round(i * (length - size) / (count - 1)) for i in range(count)]
    ramps = [(after + guard, before + size - guard) for before, after in pairwise(starts)]
    return [
        Span(start, start + size, ramps[i - 1] if i > 0 else None, ramps[i] if i < count - 1 else None)
        for i, start in enumerate(starts)
    ]


def weights(side: Sequence[Span], scale: int) -> list[Tensor]:
    """Return the weights of each span, float32 `[scale * (end - start)]`.

    Their sum is 1 at every place. `scale`: samples per latent, 1 in latent space, the autoencoder's factor in pixel
    space.
    """
    total = torch.zeros(scale * side[-1].end, dtype=torch.float64)
    own = []
    for span in side:
        place = (torch.arange(scale * span.start, scale * span.end, dtype=torch.float64) + 0.5) / scale
        weight = torch.ones_like(place)
        if span.rise is not None:
            weight = torch.minimum(weight, _ramp(place, span.rise))
        if span.fall is not None:
            weight = torch.minimum(weight, 1 - _ramp(place, span.fall))
        total[scale * span.start : scale * span.end] += weight
        own.append(weight)
    return [
        (weight / total[scale * span.start : scale * span.end]).float() for span, weight in zip(side, own, strict=True)
    ]


def _ramp(place: Tensor, between: tuple[int, int]) -> Tensor:
    first, last = between
    return ((place - first) / (last - first)).clamp(0, 1)


def blended(
    rows: Sequence[Span], columns: Sequence[Span], scale: int, compute: Callable[[Span, Span], Tensor]
) -> Iterator[tuple[int, Tensor]]:
    """Blend the results of `compute` for every window, from top to bottom.

    They are `[B, C, scale * height, scale * width]`. Yields bands of finished rows, each with its first sample row,
    so that memory is that of one row of windows.
    """
    row_weights, column_weights = weights(rows, scale), weights(columns, scale)
    band: Tensor | None = None
    carried: Tensor | None = None
    for i, (row, row_weight) in enumerate(zip(rows, row_weights, strict=True)):
        for column, column_weight in zip(columns, column_weights, strict=True):
            result = compute(row, column)
            if band is None:
                band = result.new_zeros(*result.shape[:3], scale * columns[-1].end)
                if carried is not None:
                    band[:, :, : carried.shape[2]] += carried
            weight = (row_weight[:, None] * column_weight).to(result.device, result.dtype)
            band[:, :, :, scale * column.start : scale * column.end] += result * weight
        assert band is not None
        done = scale * ((rows[i + 1].start if i + 1 < len(rows) else row.end) - row.start)
        yield scale * row.start, band[:, :, :done]
        carried, band = band[:, :, done:], None


def blend(rows: Sequence[Span], columns: Sequence[Span], scale: int, compute: Callable[[Span, Span], Tensor]) -> Tensor:
    """Return the blend of all windows as one tensor; see `blended`."""
    return torch.cat([band for _, band in blended(rows, columns, scale, compute)], 2)
