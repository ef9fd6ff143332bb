"""Windows over pictures and latents: what a network sees at once, and which part of it counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Window:
    """In latents: the part that counts, `[top, bottom) x [left, right)`, and what is seen around it."""

    top: int
    bottom: int
    left: int
    right: int
    seen_top: int
    seen_bottom: int
    seen_left: int
    seen_right: int


def windows(height: int, width: int, size: int, margin: int) -> Iterator[Window]:
    """Covers `height` x `width` latents with parts of at most `size`, each seen with `margin` more where there is more.

    With the margin of a network's receptive field, what is computed window by window equals what is computed at once.
    """
    for top, bottom in _spans(height, size):
        for left, right in _spans(width, size):
            yield Window(
                top,
                bottom,
                left,
                right,
                max(0, top - margin),
                min(height, bottom + margin),
                max(0, left - margin),
                min(width, right + margin),
            )


@dataclass(frozen=True)
class Span:
    """One side of a window that fades into its neighbours: it counts in full between the fades, which are as wide as what
    is seen beyond `start` and `end`, on both sides of these."""

    start: int
    end: int
    seen_start: int
    seen_end: int


def fading_spans(length: int, size: int, margin: int) -> list[Span]:
    """Covers `length` latents with windows that see at most `size`, cross-fading over `2 * margin` where two of them meet.

    Up to `size` there is one window, which sees everything. `size - 2 * margin` must be a multiple of 4 and at least
    `4 * margin`, so that no latent is seen by three windows.
    """
    parts = _spans(length, length if length <= size else size - 2 * margin)
    return [Span(start, end, max(0, start - margin), min(length, end + margin)) for start, end in parts]


def fade(span: Span, scale: int) -> NDArray[np.float32]:
    """Weights of what a span sees, float32 `[scale * (seen_end - seen_start)]`: those of all spans add up to 1 everywhere.

    `scale`: samples a latent, 1 in latent space, the autoencoder's factor in pixel space.
    """
    weights = np.ones(scale * (span.seen_end - span.seen_start), np.float32)
    for seen, inverted in ((span.start - span.seen_start, False), (span.seen_end - span.end, True)):
        width = 2 * scale * seen
        if width:
            ramp = (np.arange(width, dtype=np.float32) + 0.5) / width
            if inverted:
                weights[-width:] = 1 - ramp
            else:
                weights[:width] = ramp
    return weights


def blocks(height: int, width: int, size: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of the blocks of `size` x `size` latents, in raster order; those at the far edges are smaller."""
    for top in range(0, height, size):
        for left in range(0, width, size):
            yield slice(top, min(top + size, height)), slice(left, min(left + size, width))


def _spans(length: int, size: int) -> list[tuple[int, int]]:
    """Nearly equal parts, ends on multiples of 4, so that no window is a sliver."""
    count = -(-length // size)
    ends = [min(length, -(-length * (i + 1) // (4 * count)) * 4) for i in range(count)]
    ends[-1] = length
    return list(zip([0, *ends[:-1]], ends, strict=True))
