"""Fixtures that several tests share: synthetic photographs and a random model."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file

from sdcodec.autoencoders.conv import ConvConfig
from sdcodec.bundles.store import MANIFEST, read_manifest
from sdcodec.bundles.writing import adaptive_prior, add_prior
from sdcodec.perceptual.trunks import VGG16
from sdcodec.perceptual.vgg import POSITIONS
from sdcodec.priors.config import PriorConfig
from sdcodec.training.export import export
from sdcodec.training.model import TrainingModel
from sdcodec_cli.main import main
from sdcodec_eval.codecs.registry import parse
from sdcodec_eval.pictures import Source
from sdcodec_eval.plan import Plan
from sdcodec_eval.run import evaluate

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so do jobs in the background of a script, and their children
    signal.signal(signal.SIGINT, signal.default_int_handler)
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # several processes share the processors

SMALL = ConvConfig(
    latent_channels=8,
    encoder_width_4=16,
    encoder_width_8=16,
    encoder_blocks_8=1,
    decoder_width_8=16,
    decoder_blocks_8=1,
    decoder_width_4=16,
    decoder_blocks_4=1,
    decoder_width_2=8,
)
SMALL_PRIOR = PriorConfig(latent_channels=8, hyper_channels=4, width=16, middle=16, blocks=1, hyper_context=8)


def photograph(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """uint8 `[H, W, 3]` with smooth parts, edges and texture."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    planes = [128 + 90 * np.sin(x / 37 + phase) * np.cos(y / 23 - phase) for phase in (0.0, 0.6, 1.4)]
    pixels = np.stack(planes, axis=2)
    pixels[(x - width / 2) ** 2 + (y - height / 3) ** 2 < (min(height, width) / 5) ** 2] += (60, -40, 20)
    pixels += random.normal(0, 6, (height, width, 1))
    return pixels.clip(0, 255).astype(np.uint8)


def save_photographs(folder: Path, count: int, side: int = 96) -> None:
    """So many PNG files in a new folder."""
    folder.mkdir()
    for seed in range(count):
        Image.fromarray(photograph(side, side, seed)).save(folder / f"{seed:02}.png")


@pytest.fixture(scope="session")
def random_model() -> TrainingModel:
    """Make a small random model whose gains give symbols of every size."""
    torch.manual_seed(5)
    model = TrainingModel(SMALL, SMALL_PRIOR)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "prior" in name and parameter.ndim > 1 and "values" not in name:
                parameter.mul_(2.0)
        model.encoder.direct.weight.mul_(0.3)  # else it outweighs the network
        for step in model.prior.hyper_passes:  # which begin with zeros
            step.head.weight.normal_(std=0.1)
            step.head.bias.normal_(std=0.1)
    return model.eval()


@pytest.fixture(scope="session")
def random_bundle(random_model: TrainingModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the folder of a bundle from `random_model`."""
    folder = tmp_path_factory.mktemp("bundles") / "random"
    images = np.stack([photograph(128, 128, seed) for seed in range(4)])
    export(random_model.state_dict(), SMALL, SMALL_PRIOR, images, folder, "random", {})
    return folder


@pytest.fixture(scope="session")
def vivid_bundle(random_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy `random_bundle`; its decoder has realism 0.5 and reduced heads."""
    folder = tmp_path_factory.mktemp("bundles") / "vivid"
    shutil.copytree(random_bundle, folder)
    bundle = read_manifest(folder)
    config = replace(SMALL, realism=1, reduced=1)
    torch.manual_seed(6)
    tensors = load_file(folder / bundle.autoencoder_file)
    for name, value in {**tensors}.items():
        if name.startswith("decoder."):
            changed = value.float() * (1 + 0.3 * torch.randn(value.shape))
            tensors[name.replace("decoder.", "vivid.")] = changed.half()
    for head, outputs in (("head_8", 3), ("head_4", 12)):
        tensors[f"decoder.{head}.weight"] = 0.1 * torch.randn(outputs, config.decoder_width_8, 3, 3).half()
        tensors[f"decoder.{head}.bias"] = torch.zeros(outputs).half()
    save_file(tensors, folder / bundle.autoencoder_file)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["name"] = "vivid"
    manifest["autoencoder"]["configuration"] |= {"realism": 1, "reduced": 1}
    manifest["autoencoder"]["default_realism"] = 0.5
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a results folder of two crops, a broken file and three codecs.

    JPEG cannot reach some of the sizes.
    """
    folder = tmp_path_factory.mktemp("evaluated")
    with Image.open(Path(__file__).parents[1] / "images" / "raccoon.png") as image:
        photo = image.convert("RGB")
    inputs = {"eye": (160, 140), "ear": (300, 40)}
    for name, (left, top) in inputs.items():
        photo.crop((left, top, left + 128, top + 128)).save(folder / f"{name}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    sources = [Source(name, folder / f"{name}.png") for name in (*inputs, "broken")]
    codecs = tuple(parse(text) for text in ("sdcodec=sdcodec,device=cpu,precision=float32", "jpeg", "avif"))
    plan = Plan(codecs, budgets=(500, 1000, 2000), metrics=("psnr", "ssim", "lpips"))
    evaluate(plan, sources, folder / "results")
    return folder / "results"


@pytest.fixture
def adaptive_bundle(random_bundle: Path, tmp_path: Path) -> Path:
    """Copy `random_bundle` with an adaptive prior first and the learned one second."""
    folder = tmp_path / "adaptive"
    shutil.copytree(random_bundle, folder)
    with_adaptive_prior(folder)
    return folder


def with_adaptive_prior(folder: Path) -> None:
    """Put an adaptive prior first in a copy of `random_bundle`."""
    bundle = read_manifest(folder)
    stored = load_file(folder / bundle.priors[0].file)
    add_prior(bundle, adaptive_prior(SMALL.latent_channels, stored["gain"], stored["inverse_gain"]))


@pytest.fixture(scope="session")
def vgg_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write random weights of VGG-16's shape under torchvision's names.

    The file has another tensor, too.
    """
    torch.manual_seed(1)
    tensors, channels = {"classifier.0.bias": torch.zeros(3)}, 3
    for position, layer in zip(POSITIONS, VGG16, strict=True):
        tensors[f"features.{position}.weight"] = torch.randn(layer.width, channels, 3, 3) / math.sqrt(9 * channels / 2)
        tensors[f"features.{position}.bias"] = torch.zeros(layer.width)
        channels = layer.width
    path = tmp_path_factory.mktemp("vgg") / "vgg16.safetensors"
    save_file(tensors, path)
    return path


@pytest.fixture
def folder(tmp_path: Path, random_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create three photographs and an invalid image, and install the random model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SDCODEC_HOME", str(random_bundle.parent))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # `encode` replaces it
    for name in "abc":
        Image.fromarray(photograph(48, 64, ord(name))).save(f"{name}.png")
    (tmp_path / "bad.png").write_bytes(b"no image at all")
    (tmp_path / "out").mkdir()
    return tmp_path


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, str]]:
    """Return a function that runs the entry point and returns its two outputs."""

    def run(*arguments: str, status: int) -> tuple[str, str]:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        printed = capfd.readouterr()
        assert ended.value.code == status, printed.err
        assert "Traceback" not in printed.err
        return printed.out, printed.err

    return run
