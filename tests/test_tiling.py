"""Windows and blocks cover everything once."""

from __future__ import annotations

import numpy as np
import pytest

from sdcodec.tiling import blocks, fading_spans, windows


@pytest.mark.parametrize(("height", "width"), [(4, 4), (64, 64), (68, 500), (1000, 12)])
def test_windows_cover_every_latent_once_and_see_its_surroundings(height, width):
    seen = np.zeros((height, width), int)
    for w in windows(height, width, 64, 10):
        seen[w.top : w.bottom, w.left : w.right] += 1
        assert w.bottom - w.top <= 64 and w.right - w.left <= 64
        assert w.seen_top == max(0, w.top - 10) and w.seen_bottom == min(height, w.bottom + 10)
        assert w.seen_left == max(0, w.left - 10) and w.seen_right == min(width, w.right + 10)
    assert (seen == 1).all()


def test_blocks_cover_every_latent_once():
    seen = np.zeros((100, 200), int)
    for rows, columns in blocks(100, 200, 64):
        seen[rows, columns] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize(("size", "fade", "guard"), [(96, 8, 4), (48, 4, 2), (24, 2, 1), (192, 16, 8)])
@pytest.mark.parametrize("scale", [1, 8])
def test_fading_windows_weigh_every_place_once(size, fade, guard, scale):
    for length in [*range(4, 2 * size, 4), 9 * size]:
        spans = fading_spans(length, size, fade, guard)
        weights = np.zeros(scale * length)
        for span in spans:
            assert span.seen_end - span.seen_start <= size
            weights[scale * span.seen_start : scale * span.seen_end] += span.weights(scale)
        assert np.abs(weights - 1).max() < 1e-6
        assert (len(spans) == 1) == (length <= size)


def test_what_lies_beyond_the_fade_counts_nothing():
    first, second = fading_spans(120, 96, 8, 4)
    assert first.seen_end - first.end == 12 and second.start - second.seen_start == 12
    assert (first.weights(8)[-32:] == 0).all() and (second.weights(8)[:32] == 0).all()
    assert first.weights(1)[0] == second.weights(1)[-1] == 1
