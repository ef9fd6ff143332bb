"""Windows over pictures and latents: what a network sees at once, and which part of it counts."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
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
    """One side of a window that fades into its neighbours, in latents: it sees `[seen_start, seen_end)`.

    Its weight goes from 0 to 1 over `2 * fade` latents around `start`, and back to 0 around `end`; at the picture's own
    edges there is nothing to fade into.
    """

    start: int
    end: int
    seen_start: int
    seen_end: int
    fade: int

    def weights(self, scale: int) -> NDArray[np.float32]:
        """float32 `[scale * (seen_end - seen_start)]`; those of all spans of a side add up to 1 everywhere.

        `scale`: samples a latent, 1 in latent space, the autoencoder's factor in pixel space.
        """
        place = (np.arange(scale * self.seen_start, scale * self.seen_end) + 0.5) / scale
        weights = np.ones(len(place))
        if self.start > self.seen_start:
            weights *= _ramp(place, self.start, self.fade)
        if self.end < self.seen_end:
            weights *= 1 - _ramp(place, self.end, self.fade)
        return weights.astype(np.float32)


def _ramp(place: NDArray[np.float64], middle: int, fade: int) -> NDArray[np.float64]:
    return np.clip((place - (middle - fade)) / max(2 * fade, 1), 0, 1)


def fading_spans(length: int, size: int, fade: int, guard: int) -> list[Span]:
    """Covers `length` latents with windows that see at most `size`, and fade into each other over `2 * fade`.

    What a window sees beyond the fade, `guard`, counts nothing: there its network meets an edge that the picture does not
    have. Up to `size` there is one window, which sees everything. `size` must leave parts that no three windows share.
    """
    margin = fade + guard
    part = length if length <= size else (size - 2 * margin) // 4 * 4
    return [
        Span(start, end, max(0, start - margin), min(length, end + margin), fade) for start, end in _spans(length, part)
    ]


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


def alike(keys: Iterable[Hashable]) -> list[list[int]]:
    """Indices of equal keys together, in order of first appearance: what can be computed in one batch."""
    groups: dict[Hashable, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    return list(groups.values())
