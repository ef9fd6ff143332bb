"""Tests of distortion terms: luma structure and limited squared error."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity

from conftest import photograph
from sdcodec.training import losses


def image(seed: int) -> torch.Tensor:
    return torch.from_numpy(photograph(128, 144, seed)).permute(2, 0, 1)[None].double() / 255


def expected_map(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return SSIM by scikit-image with the term of means of SSIMULACRA 2."""
    # K1 so large that the term of means of SSIM is 1 everywhere.
    _, found = structural_similarity(
        x, y, data_range=1.0, gaussian_weights=True, use_sample_covariance=False, sigma=1.5, K1=1e6, full=True
    )
    blurred = [gaussian_filter(plane, 1.5, truncate=3.5) for plane in (x, y)]
    return found * (1 - (blurred[0] - blurred[1]) ** 2)


def test_the_similarity_map_is_that_of_scikit_image() -> None:
    ours, theirs = losses.luma(image(1)), losses.luma(image(2))
    found = losses.similarity(ours, theirs)[0, 0].numpy()
    inner = (slice(5, -5), slice(5, -5))  # windows at borders are mirrored in another way there
    assert np.allclose(found[inner], expected_map(ours[0, 0].numpy(), theirs[0, 0].numpy())[inner], atol=1e-6)
    assert found[inner].min() < 0.5


def test_structure_is_the_mean_over_three_scales() -> None:
    a, b = image(1), image(2)
    ours, theirs, values = losses.luma(a), losses.luma(b), []
    for _ in range(3):
        ours, theirs = F.avg_pool2d(ours, 2), F.avg_pool2d(theirs, 2)
        values.append(1 - float(losses.similarity(ours, theirs).mean()))
    assert float(losses.structure(a, b)) == pytest.approx(np.mean(values))
    assert float(losses.structure(a, a)) == pytest.approx(0, abs=1e-9)


def test_luma_of_grey_is_the_cube_root_of_its_intensity() -> None:
    for level, linear in ((0.0, 0.0), (0.5, 0.2140411), (1.0, 1.0)):
        grey = torch.full((1, 3, 2, 2), level)
        assert losses.luma(grey).flatten()[0] == pytest.approx((linear + 0.0037930733) ** (1 / 3), rel=1e-5)


def test_a_flat_pair_differs_by_its_means_only() -> None:
    light, dark = torch.full((1, 3, 64, 64), 0.9), torch.full((1, 3, 64, 64), 0.2)
    difference = float(losses.luma(light)[0, 0, 0, 0] - losses.luma(dark)[0, 0, 0, 0])
    assert float(losses.structure(light, dark)) == pytest.approx(difference**2, rel=1e-3)


def test_lost_texture_counts_and_lost_colour_does_not() -> None:
    stripes = torch.full((1, 3, 64, 64), 0.3)
    stripes[:, :, :, ::16] = stripes[:, :, :, 1::16] = 0.6
    flat = stripes.mean(dim=3, keepdim=True).expand_as(stripes)
    assert losses.structure(flat, stripes) > 0.5
    assert losses.structure(stripes + 0.01 * torch.randn_like(stripes), stripes) < 0.05


def test_gradients_of_structure_are_finite_on_black_and_white_images() -> None:
    for level in (0.0, 1.0, -0.3):
        x = torch.full((1, 3, 64, 64), level, requires_grad=True)
        losses.structure(x, torch.zeros(1, 3, 64, 64)).sum().backward()
        assert x.grad is not None and bool(x.grad.isfinite().all())


def test_the_squared_error_is_linear_beyond_128_levels() -> None:
    def one(level: float) -> torch.Tensor:
        return torch.full((1, 3, 2, 2), level)

    assert losses.squared(one(5.0)).tolist() == pytest.approx([25.0])
    assert losses.squared(one(-128.0)).tolist() == pytest.approx([128.0**2])
    assert losses.squared(one(1128.0)).tolist() == pytest.approx([128.0**2 + 1000 * 256])
    far = one(1e6).requires_grad_()
    losses.squared(far).sum().backward()
    assert far.grad is not None and far.grad.sum() == pytest.approx(256)  # per pixel at most 2 * 128
