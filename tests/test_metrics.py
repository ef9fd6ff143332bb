"""Tests of the metrics: known values, published values, second implementations."""

from __future__ import annotations

import math
import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from conftest import photograph
from sdcodec.errors import OptionError
from sdcodec.measures import lpips, psnr
from sdcodec.perceptual.lpips import LPIPS
from sdcodec.perceptual.vgg import find_vgg16
from sdcodec_eval.measuring import METRICS, Meter
from sdcodec_eval.metrics import dists, lpips_vgg, ms_ssim, psnr_y, ssim
from sdcodec_eval.montage import side_by_side

EXAMPLE = "LPIPS_EXAMPLE"  # environment variable: folder with the example images of LPIPS's authors, ex_*.png


def damaged(pixels: np.ndarray) -> np.ndarray:
    """Add noise and coarse quantisation to an image."""
    noise = np.random.default_rng(3).normal(0, 9, pixels.shape)
    return ((pixels + noise) // 16 * 16).clip(0, 255).astype(np.uint8)


def published_example() -> list[np.ndarray]:
    if EXAMPLE not in os.environ:
        pytest.skip(f"{EXAMPLE} does not name the folder of LPIPS's example images")
    names = ("ex_ref", "ex_p0", "ex_p1")
    return [np.asarray(Image.open(Path(os.environ[EXAMPLE]) / f"{name}.png").convert("RGB")) for name in names]


def test_psnr_of_a_known_error():
    one = np.full((8, 8, 3), 100, np.uint8)
    assert psnr(one, one + 5) == pytest.approx(10 * math.log10(255**2 / 25))
    assert psnr(one, one) == math.inf


def test_psnr_y_weights_the_channels_as_luma():
    one = np.full((8, 8, 3), 100, np.uint8)
    green = one + np.array([0, 10, 0], np.uint8)
    assert psnr_y(one, one + 5) == pytest.approx(psnr(one, one + 5))
    assert psnr_y(one, green) == pytest.approx(20 * math.log10(255 / 5.87))


def test_equal_images_have_the_best_value_of_every_metric(vgg_file):
    pixels = photograph(161, 161)
    found = Meter(tuple(METRICS), vgg_file).measure(pixels, pixels)
    best = dict.fromkeys(("ssim", "ms_ssim"), 1) | {"psnr": math.inf, "psnr_y": math.inf, "ssimulacra2": 100}
    assert found == pytest.approx({**dict.fromkeys(("lpips_alex", "lpips_vgg", "dists"), 0), **best}, abs=1e-5)


def test_more_damage_is_worse_by_every_metric(vgg_file):
    pixels = photograph(161, 161)
    slight = (pixels.astype(int) + np.random.default_rng(0).integers(-3, 4, pixels.shape)).clip(0, 255).astype(np.uint8)
    meter = Meter(tuple(METRICS), vgg_file)
    better, worse = meter.measure(pixels, slight), meter.measure(pixels, damaged(pixels))
    for metric in meter.metrics:
        assert (better[metric.column] > worse[metric.column]) is metric.higher_is_better, metric.name


def test_lpips_of_the_published_example():
    reference, one, other = published_example()
    assert lpips(reference, one) == pytest.approx(0.722, abs=0.001)
    assert lpips(reference, other) == pytest.approx(0.138, abs=0.001)


def test_the_embedded_weights_of_lpips_have_not_changed():
    """Compare with values measured when the weights gave the published values."""
    pixels = photograph(96, 80)
    assert lpips(pixels, damaged(pixels)) == pytest.approx(0.0503, abs=0.0005)


def test_lpips_vgg_of_the_published_example():
    weights = find_vgg16()
    if weights is None:
        pytest.skip("VGG-16's weights are not in PyTorch's cache")
    reference, one, other = published_example()
    assert lpips_vgg(reference, one, weights) == pytest.approx(0.5686, abs=0.001)
    assert lpips_vgg(reference, other, weights) == pytest.approx(0.4217, abs=0.001)


def test_lpips_agrees_with_the_package_lpips(monkeypatch):
    """Give the package, which imports torchvision for its trunk, one with our weights."""
    alexnet = nn.Sequential(
        *(nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(64, 192, 5, 1, 2), nn.ReLU()),
        *(nn.MaxPool2d(3, 2), nn.Conv2d(192, 384, 3, 1, 1), nn.ReLU(), nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU()),
    )
    ours = LPIPS()
    convolutions = [layer for layer in alexnet if isinstance(layer, nn.Conv2d)]
    for theirs, own in zip(convolutions, ours.features, strict=True):
        theirs.load_state_dict(own.state_dict())
    torchvision = types.ModuleType("torchvision")
    torchvision.models = types.SimpleNamespace(alexnet=lambda pretrained: types.SimpleNamespace(features=alexnet))
    monkeypatch.setitem(sys.modules, "torchvision", torchvision)
    package = pytest.importorskip("lpips").LPIPS(net="alex", verbose=False, pnet_rand=True).eval()
    one, other = photograph(96, 80), damaged(photograph(96, 80))
    tensors = [torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1 for pixels in (one, other)]
    with torch.inference_mode():
        assert lpips(one, other) == pytest.approx(float(package(*tensors)), rel=1e-4)


def test_psnr_and_ms_ssim_agree_with_torchmetrics():
    functional = pytest.importorskip("torchmetrics.functional.image")
    one = photograph(200, 190)
    other = damaged(one)
    tensors = [torch.from_numpy(pixels).permute(2, 0, 1)[None].double() for pixels in (other, one)]
    theirs = functional.peak_signal_noise_ratio(*tensors, data_range=255.0)
    assert psnr(one, other) == pytest.approx(float(theirs), abs=1e-4)
    theirs = functional.multiscale_structural_similarity_index_measure(*tensors, data_range=255.0)
    assert ms_ssim(one, other) == pytest.approx(
        float(theirs), abs=2e-3
    )  # torchmetrics includes windows that cross the border


def test_ssim_agrees_with_torchmetrics():
    functional = pytest.importorskip("torchmetrics.functional.image")
    one = photograph(64, 80)
    tensors = [torch.from_numpy(pixels).permute(2, 0, 1)[None].double() for pixels in (damaged(one), one)]
    _, theirs = functional.structural_similarity_index_measure(*tensors, data_range=255.0, return_full_image=True)
    inside = theirs[..., 5:-5, 5:-5]  # torchmetrics' mean includes windows that cross the border
    assert ssim(one, damaged(one)) == pytest.approx(float(inside.mean()), abs=1e-4)


def test_an_image_too_small_for_a_metric_has_no_value():
    pixels = photograph(40, 300)
    found = Meter(("psnr", "ms-ssim", "lpips")).measure(pixels, pixels)
    assert found["ms_ssim"] is None and found["lpips_alex"] == pytest.approx(0, abs=1e-6)


def test_metrics_without_their_requirements_are_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(OptionError, match="--lpips-vgg-weights"):
        Meter(("dists",))
    with pytest.raises(OptionError, match=r"unknown metric vmaf; choose from psnr"):
        Meter(("vmaf",))
    (tmp_path / "vgg.pth").write_bytes(b"no weights")
    with pytest.raises(OptionError, match=r"not VGG-16's weights"):
        Meter(("lpips-vgg",), tmp_path / "vgg.pth")


def test_weights_are_found_in_torchvisions_cache(monkeypatch, tmp_path, vgg_file):
    from safetensors.torch import load_file

    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save(load_file(vgg_file), cache / "vgg16-397923af.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    pixels = photograph(32, 32)
    found = Meter(("lpips-vgg",)).measure(pixels, damaged(pixels))
    assert found["lpips_vgg"] == pytest.approx(lpips_vgg(pixels, damaged(pixels), vgg_file))


def test_a_montage_contains_every_image():
    pixels = photograph(40, 60)
    sheet = np.asarray(side_by_side([("a", pixels), ("b\nc", pixels[::-1])]))
    for left, own in ((8, pixels), (76, pixels[::-1])):
        assert any((sheet[y : y + 40, left : left + 60] == own).all() for y in range(sheet.shape[0] - 39))


def test_kept_activations_belong_to_their_original(vgg_file: Path) -> None:
    one, two, other = (photograph(32, 40, seed) for seed in range(3))
    for metric in (lpips_vgg, dists):
        first = metric(one, other, vgg_file)
        assert metric(two, other, vgg_file) != pytest.approx(first, rel=1e-3)
        assert metric(one, other, vgg_file) == metric(one.copy(), other, vgg_file) == first
