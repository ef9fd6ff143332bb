"""Tests of the start from nothing: the untrained model is a transform codec."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import sdcodec
from conftest import SMALL, SMALL_PRIOR, photograph
from sdcodec.training.export import export
from sdcodec.training.model import TrainingModel
from sdcodec.training.start import start_as_transform

CHANNELS = 24


def images(count: int) -> torch.Tensor:
    return torch.from_numpy(np.stack([photograph(128, 160, seed) for seed in range(count)])).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def untrained() -> TrainingModel:
    torch.manual_seed(1)
    model = TrainingModel(replace(SMALL, latent_channels=CHANNELS), replace(SMALL_PRIOR, latent_channels=CHANNELS))
    start_as_transform(model, images(8))
    return model.eval()


@torch.no_grad()
def coded(model: TrainingModel, quality: float) -> tuple[float, float]:
    """Return squared error and bits per pixel of images."""
    found = model(images(4) / 255, torch.full((4,), quality))
    error = 255 * (found.images.clamp(0, 1) - images(4) / 255)
    return float(error.square().mean()), float(found.coded.bits.mean() / (128 * 160))


def test_error_and_rate_of_the_untrained_model_follow_quality(untrained: TrainingModel) -> None:
    errors, rates = zip(*(coded(untrained, quality) for quality in (0.0, 25.0, 50.0, 75.0, 100.0)), strict=True)
    assert list(errors) == sorted(errors, reverse=True) and list(rates) == sorted(rates)
    assert errors[-1] < errors[0] / 4 and rates[-1] > 4 * rates[0]


def test_the_error_at_high_quality_is_that_of_the_dropped_components(untrained: TrainingModel) -> None:
    pixels = torch.nn.functional.pixel_unshuffle(2 * images(8).double() / 255 - 1, 8).transpose(0, 1).flatten(1)
    variances = torch.linalg.eigvalsh(torch.cov(pixels, correction=0)).flip(0)
    dropped = float(variances[CHANNELS:].sum()) * 127.5**2 / 192
    assert coded(untrained, 100.0)[0] == pytest.approx(dropped, rel=0.25, abs=2.0)


@torch.no_grad()
def test_every_channel_carries_information(untrained: TrainingModel) -> None:
    latents = untrained.encoder(images(8) / 255)
    assert latents.std(dim=(0, 2, 3)).tolist() == pytest.approx([1.0] * CHANNELS, rel=0.1)
    quality = torch.full((8,), 100.0)
    symbols = (untrained.prior(untrained.scaled_latents(images(8) / 255, quality), quality).decoded).round()
    for channel in range(CHANNELS):
        _, counts = symbols[:, channel].unique(return_counts=True)
        shares = counts / counts.sum()
        assert float(-(shares * shares.log2()).sum()) > 0.3, channel


def test_the_untrained_model_writes_files(untrained: TrainingModel, tmp_path: Path) -> None:
    pixels: NDArray[np.uint8] = images(8).permute(0, 2, 3, 1).contiguous().numpy()
    export(untrained.state_dict(), untrained.autoencoder, untrained.prior.config, pixels, tmp_path / "m", "start", {})
    codec, source = sdcodec.Codec(tmp_path / "m"), pixels[2]
    sizes, errors = [], []
    for quality in (10, 50, 90):
        data = codec.encode(Image.fromarray(source), quality=quality).data
        difference = np.asarray(codec.decode(data), np.float64) - source
        sizes.append(len(data))
        errors.append(float((difference**2).mean()))
    assert sizes == sorted(sizes) and errors == sorted(errors, reverse=True)
    assert 10 * np.log10(255**2 / errors[-1]) > 30
