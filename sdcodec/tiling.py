"""Windows over pictures and latents: what a network sees at once, and which part of it counts."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass


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
