"""Metrics: known values, and a classic codec's best file under a budget."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sdcodec_eval.classic import AVIF, JPEG, WEBP, decoded

from conftest import photograph
from sdcodec_eval.metrics import lpips, psnr, ssim
from sdcodec_eval.montage import side_by_side

PUBLISHED = Path(__file__).parents[2] / "shared" / "data" / "lpips"


def test_psnr_of_a_known_error():
    one = np.full((8, 8, 3), 100, np.uint8)
    assert psnr(one, one + 5) == pytest.approx(10 * math.log10(255**2 / 25))
    assert psnr(one, one) == math.inf


def test_equal_pictures_are_equal_by_every_metric():
    pixels = photograph(64, 64)
    assert ssim(pixels, pixels) == pytest.approx(1)
    assert lpips(pixels, pixels) == pytest.approx(0, abs=1e-6)


def test_lpips_of_the_published_example():
    if not PUBLISHED.is_dir():
        pytest.skip("LPIPS's example images are not here")
    reference, one, other = (
        np.asarray(Image.open(next(PUBLISHED.glob(f"{name}.*"))).convert("RGB"))
        for name in ("ex_ref", "ex_p0", "ex_p1")
    )
    assert lpips(reference, one) == pytest.approx(0.722, abs=0.001)
    assert lpips(reference, other) == pytest.approx(0.138, abs=0.001)


@pytest.mark.parametrize("codec", [JPEG, WEBP, AVIF], ids=lambda codec: codec.name)
def test_the_best_file_within_a_budget(codec):
    image = Image.fromarray(photograph(96, 96))
    budget = len(codec.encode(image, 40)) + 10
    data, quality = codec.best_within(image, budget)
    assert len(data) <= budget
    assert all(len(codec.encode(image, q)) > budget for q in range(quality + 1, min(quality + 5, 101)))
    assert decoded(data).shape == (96, 96, 3)


def test_a_budget_below_the_lowest_quality_is_out_of_reach():
    assert JPEG.best_within(Image.fromarray(photograph(96, 96)), 100) is None


def test_side_by_side_holds_every_picture():
    pixels = photograph(40, 60)
    sheet = np.asarray(side_by_side([("a", pixels), ("b\nc", pixels[::-1])]))
    assert any((sheet[y : y + 40, 8:68] == pixels).all() for y in range(sheet.shape[0] - 39))
