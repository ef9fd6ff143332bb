"""Windows over images and latents: a network's view, and its part that counts."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """A window in latents: the part that counts, `[top, bottom) x [left, right)`.

    `seen_...` is the larger part that the network sees.
    """

    top: int
    bottom: int
    left: int
    right: int
    seen_top: int
    seen_bottom: int
    seen_left: int
    seen_right: int


def windows(height: int, width: int, size: int, margin: int) -> Iterator[Window]:
    """Cover `height` x `width` latents with parts of at most `size`.

    Each is seen with `margin` more on every side, up to the edge. With the margin of a network's receptive field,
    results window by window equal those of the whole.
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
    """Yield rows and columns of blocks of `size` x `size` latents, in raster order.

    Blocks at the far edges are smaller.
    """
    for top in range(0, height, size):
        for left in range(0, width, size):
            yield slice(top, min(top + size, height)), slice(left, min(left + size, width))


def _spans(length: int, size: int) -> list[tuple[int, int]]:
    """Return nearly equal parts with ends on multiples of 4; no window is a sliver."""
    count = -(-length // size)
    ends = [min(length, -(-length * (i + 1) // (4 * count)) * 4) for i in range(count)]
    ends[-1] = length
    return list(zip([0, *ends[:-1]], ends, strict=True))


def alike(keys: Iterable[Hashable]) -> list[list[int]]:
    """Group the indices of equal keys, in order of first appearance.

    Each group is one batch.
    """
    groups: dict[Hashable, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    return list(groups.values())
