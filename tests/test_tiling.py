"""Windows and blocks cover everything once."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from sdcodec import blending
from sdcodec.tiling import blocks, windows


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


@pytest.mark.parametrize(("size", "overlap", "guard"), [(96, 24, 4), (48, 12, 2), (24, 6, 1), (192, 48, 8), (32, 8, 0)])
@pytest.mark.parametrize("scale", [1, 8])
def test_blended_windows_weigh_every_place_once(size, overlap, guard, scale):
    for length in [*range(4, 3 * size, 4), 9 * size]:
        side = blending.spans(length, size, overlap, guard)
        total = np.zeros(scale * length)
        for span, weights in zip(side, blending.weights(side, scale), strict=True):
            assert span.end - span.start == min(size, length)
            total[scale * span.start : scale * span.end] += weights.numpy()
        assert np.abs(total - 1).max() < 1e-6
        assert (len(side) == 1) == (length <= size)
        assert all(before.end - after.start >= overlap for before, after in pairwise(side))


def test_what_lies_beyond_the_fade_counts_nothing():
    first, second = side = blending.spans(168, 96, 24, 4)
    assert first.end - second.start == 24
    weights = blending.weights(side, 8)
    assert (weights[0][-32:] == 0).all() and (weights[1][:32] == 0).all()
    assert weights[0][0] == weights[1][-1] == 1


def test_a_blend_of_windows_of_one_image_is_the_image():
    image = torch.rand(2, 3, 8 * 50, 8 * 90)
    rows, columns = blending.spans(50, 24, 8, 2), blending.spans(90, 24, 8, 2)
    bands = list(
        blending.blended(rows, columns, 8, lambda r, c: image[:, :, 8 * r.start : 8 * r.end, 8 * c.start : 8 * c.end])
    )
    assert [top for top, _ in bands] == [8 * span.start for span in rows]
    assert torch.allclose(torch.cat([band for _, band in bands], 2), image, atol=1e-6)
