"""The UNet for the latents of `tiny`: it begins as nothing, is trained through the decoder, and changes no file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import sdcodec
from conftest import photograph, save_photographs
from sdcodec.bundles import store
from sdcodec.denoisers.latent_unet import LatentUNet, LatentUNetConfig
from sdcodec.errors import TrainingError
from sdcodec.training.config import load_config
from sdcodec.training.run import Trainer, train

SMALL = LatentUNetConfig(widths=(16, 24, 32), blocks=(1, 1, 1), embedding=16, window=16)
RECIPE = """
data = ["photos"]
output = "run"
start_from = "tiny"
train_only = "denoiser"
steps = 3
warmup = 1
learning_rate = 1e-2
qualities = [0, 60]
spread_start = 0
spread_end = 0
quantise_from = 0
validation_images = 1
crops = [{ start = 0, size = 64, batch = 1 }]
[denoiser]
widths = [16, 24, 32]
blocks = [1, 1, 1]
embedding = 16
window = 16
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("denoiser")
    save_photographs(folder / "photos", 3)
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    """The bundle that three steps make."""
    return train(folder / "recipe.toml") / "bundle"


def test_an_untrained_network_leaves_latents_as_they_are() -> None:
    latents = torch.randn(2, 32, 13, 10)  # sides that are no multiples of 4
    network = LatentUNet(SMALL)
    assert torch.equal(network(latents, torch.tensor([0.3, 0.01])), latents)


def test_what_it_adds_grows_with_the_error_that_it_is_told_of() -> None:
    torch.manual_seed(0)
    network = LatentUNet(SMALL)
    torch.nn.init.normal_(network.exit.weight, std=0.05)
    latents = torch.randn(1, 32, 8, 8)
    with torch.no_grad():
        small, large = ((network(latents, torch.tensor([s])) - latents).abs().mean() for s in (0.001, 1.0))
    assert 0 < 20 * small < large


def test_files_do_not_know_of_it_and_decode_as_before_without_it(trained: Path) -> None:
    pixels = photograph(200, 168)
    before, after = sdcodec.Codec("tiny"), sdcodec.Codec(trained)
    data = before.encode(pixels, quality=20).data
    assert after.encode(pixels, quality=20).data == data
    plain = np.asarray(before.decode(data))
    assert np.array_equal(np.asarray(after.decode(data)), plain)
    cleaned = np.asarray(after.decode(data, denoise=1))
    assert not np.array_equal(cleaned, plain) and np.array_equal(cleaned, np.asarray(after.decode(data, denoise=1)))
    assert np.array_equal(np.asarray(after.decode(data, denoise=1, strength=0)), plain)


def test_above_the_qualities_that_it_was_trained_on_it_does_nothing(trained: Path) -> None:
    codec = sdcodec.Codec(trained)
    data = codec.encode(photograph(64, 64), quality=75).data
    assert np.array_equal(np.asarray(codec.decode(data, denoise=1)), np.asarray(codec.decode(data)))


def test_windows_hardly_show(trained: Path) -> None:
    codec = sdcodec.Codec(trained)
    data = codec.encode(photograph(256, 256), quality=10).data
    windowed = np.asarray(codec.decode(data, denoise=1)).astype(int)
    codec._denoiser.size = 64
    whole = np.asarray(codec.decode(data, denoise=1)).astype(int)
    assert not np.array_equal(windowed, whole) and np.abs(windowed - whole).mean() < 1


def test_its_training_can_go_on_from_the_bundle(folder: Path, trained: Path) -> None:
    again = train(folder / "recipe.toml", overrides={"start_from": f"{trained}", "steps": "0", "output": "again"})
    first, second = (sdcodec.Codec(place) for place in (trained, again / "bundle"))
    data = first.encode(photograph(64, 64), quality=10).data
    assert np.array_equal(np.asarray(first.decode(data, denoise=1)), np.asarray(second.decode(data, denoise=1)))


@pytest.mark.parametrize("name", ["dists", "lpips_vgg"])
def test_what_looks_through_vgg_can_be_trained_on(folder: Path, vgg_file: Path, name: str) -> None:
    overrides = {"output": name, "steps": "1", f"{name}_weight": "1.0", "vgg": str(vgg_file)}
    trainer = Trainer(load_config(folder / "recipe.toml", overrides), resume=False)
    with_it, parts = trainer.objective(trainer.model, torch.rand(1, 3, 64, 64), torch.tensor([30.0]), 0)
    assert 0 < parts[name] < float(with_it.detach())
    assert store.read_manifest(trainer.run() / "bundle").denoiser is not None


def test_of_a_batch_some_are_looked_at_in_training_and_all_in_validation(folder: Path, vgg_file: Path) -> None:
    overrides = {"output": "some", "dists_weight": "1.0", "vgg_images": "1", "vgg": str(vgg_file)}
    trainer = Trainer(load_config(folder / "recipe.toml", overrides), resume=False)
    images, qualities = torch.rand(1, 3, 64, 64).expand(2, -1, -1, -1), torch.tensor([30.0, 30.0])
    looked_at = []

    class Counting:
        def distance(self, reconstructed: torch.Tensor, originals: torch.Tensor) -> torch.Tensor:
            looked_at.append(len(originals))
            return reconstructed.mean(dim=(1, 2, 3))

    trainer.objective.vgg_terms = {"dists": (1.0, Counting())}
    for training in (True, False):
        trainer.objective(trainer.model.train(training), images, qualities, 0)
    assert looked_at == [1, 2]


@pytest.mark.parametrize("name", ["dists", "lpips_vgg"])
def test_without_vggs_weights_it_says_what_to_give(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("sdcodec.training.objective.find_vgg16", lambda: None)
    with pytest.raises(TrainingError, match="give their file as `vgg`"):
        train(folder / "recipe.toml", overrides={"output": "none", f"{name}_weight": "1.0"})


def test_the_section_of_a_recipe_is_read(folder: Path) -> None:
    config = load_config(folder / "recipe.toml", {})
    assert config.denoiser == SMALL and config.qualities == (0, 60)
    assert load_config(folder / "recipe.toml", {"denoiser.window": "64"}).denoiser == dataclasses.replace(
        SMALL, window=64
    )
