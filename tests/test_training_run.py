"""Tests of whole runs with 100,000 parameters on generated images."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import sdcodec
from conftest import photograph
from sdcodec.errors import TrainingError
from sdcodec.training import averages, trainer
from sdcodec.training.averages import Averages, load_averages, save_averages
from sdcodec.training.config import load_config
from sdcodec.training.model import TrainingModel
from sdcodec.training.run import export_run, prepare, train
from sdcodec.training.trainer import Trainer
from sdcodec_cli.train import train as command

RECIPE = """
data = ["photos"]
name = "trial"
seed = 3
learning_rate = 2e-3
rate_weight = 3.0
lpips_weight = 5.0
structure_weight = 5.0
quantise_from = 0.5
crop_size = 64
batch = 4
validation_images = 0

[autoencoder]
latent_channels = 16
encoder_width_4 = 16
encoder_width_8 = 24
encoder_blocks_8 = 1
decoder_width_8 = 24
decoder_blocks_8 = 1
decoder_width_4 = 16
decoder_blocks_4 = 1
decoder_width_2 = 8

[prior]
latent_channels = 16
hyper_channels = 4
width = 16
middle = 16
blocks = 1
hyper_context = 8
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "photos").mkdir()
    for seed in range(12):
        Image.fromarray(photograph(128, 144, seed)).save(folder / "photos" / f"{seed}.png")
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


def run(folder: Path, output: str, *, resume: bool = False, **settings: object) -> Path:
    values = {key: json.dumps(value) for key, value in settings.items()}
    return train(folder / "recipe.toml", resume=resume, overrides={"output": output} | values)


def prepared(folder: Path, output: str, **settings: object) -> Trainer:
    values = {key: json.dumps(value) for key, value in settings.items()}
    return prepare(load_config(folder / "recipe.toml", {"output": output} | values))


@pytest.fixture(scope="module")
def finished(folder: Path) -> Path:
    return run(folder, "finished", num_steps=60)


def logged(output: Path, name: str) -> list[float]:
    with (output / "log.csv").open() as file:
        return [float(row["value"]) for row in csv.DictReader(file) if row["name"] == name and row["kind"] == "train"]


def after_step(owner: Trainer, number: int, action: Callable[[], object]) -> None:
    """Let `action` happen once, after step `number` of the run."""
    original = owner._train_step
    waiting = [action]

    def step() -> dict[str, torch.Tensor]:
        parts = original()
        if owner.step == number - 1 and waiting:
            waiting.pop()()
        return parts

    owner._train_step = step  # type: ignore[method-assign]


def test_the_loss_falls(folder: Path, finished: Path) -> None:
    count = sum(p.numel() for p in TrainingModel(*shapes(folder)).parameters())
    assert 70_000 < count < 130_000
    losses = logged(finished, "loss")
    assert len(losses) == 2 and losses[1] < 0.9 * losses[0]
    assert logged(finished, "skipped") == [0.0, 0.0]


def shapes(folder: Path) -> tuple:
    config = load_config(folder / "recipe.toml")
    return config.autoencoder, config.prior


@torch.no_grad()
def test_files_have_the_rate_of_the_float_model(folder: Path, finished: Path) -> None:
    model = TrainingModel(*shapes(folder))
    model.load_state_dict(load_averages(finished / "averages").weights)
    codec = sdcodec.Codec(finished / "bundle")
    pixels = photograph(256, 320, 99)
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    for quality in (60.0, 75.0, 90.0):
        expected = float(model.eval()(images, torch.tensor([quality])).coded.bits) / 8
        size = len(codec.encode(Image.fromarray(pixels), quality=quality).data)
        # Tables that are fitted to photographs like these save up to 3%.
        assert 0.97 * expected < size < 1.01 * expected, quality


def test_a_run_stopped_by_sigterm_resumes_exactly(folder: Path, finished: Path) -> None:
    stopped = prepared(folder, "stopped", num_steps=60)
    after_step(stopped, 37, lambda: os.kill(os.getpid(), signal.SIGTERM))
    output = stopped.run()
    assert stopped.step == 37 and not (output / "bundle").exists()
    run(folder, "stopped", resume=True, num_steps=60)
    states = [torch.load(path / "last.pt", weights_only=True) for path in (finished, output)]
    for part in ("model", "average", "limit"):
        for name, value in states[0][part].items():
            assert torch.equal(value, states[1][part][name]), name


def test_a_run_by_the_clock_ends_in_time_and_restores_the_time_spent(folder: Path) -> None:
    owner = prepared(folder, "clock", minutes=2.5 / 60, validate_every=2)
    owner.validate = lambda: pytest.fail("takes time from training")  # type: ignore[method-assign,assignment]
    after_step(owner, 5, lambda: os.kill(os.getpid(), signal.SIGTERM))
    output = owner.run()
    spent = owner.clock.seconds
    assert 0 < spent < 2.5 and not (output / "bundle").exists()
    began = time.monotonic()
    resumed = prepare(load_config(folder / "recipe.toml", {"output": "clock", "minutes": str(2.5 / 60)}), resume=True)
    assert resumed.clock.seconds == spent
    loaded = time.monotonic()
    resumed.export = lambda: None  # type: ignore[method-assign,assignment]
    resumed.run()
    assert time.monotonic() - loaded < 2.5 - spent + 1.5 and loaded - began < 5
    assert 2.5 <= resumed.clock.seconds < 3.5
    assert float(resumed.optimisers._all[0].param_groups[0]["lr"]) < 0.2 * 2e-3  # has fallen


def plant_nan(owner: Trainer) -> None:
    with torch.no_grad():
        owner.model.decoder.exit.weight[0] = torch.nan


def test_a_planted_nan_makes_the_run_go_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trainer, "LOG_STEPS", 5)
    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", 0.0)
    owner = prepared(folder, "planted", num_steps=30)
    after_step(owner, 12, lambda: plant_nan(owner))
    output = owner.run()
    assert "diverged at step 15 (60% of the steps skipped): back to step 10" in capsys.readouterr().out
    assert owner.step == 30 and owner.returns == 1
    assert all(bool(value.isfinite().all()) for value in load_averages(output / "averages").weights.values())
    assert torch.load(output / "last.pt", weights_only=True)["returns"] == 1
    with (output / "log.csv").open() as file:
        assert len({row["step"] for row in csv.DictReader(file)}) == 6


def test_a_run_that_diverges_three_times_ends_with_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "LOG_STEPS", 2)
    owner = prepared(folder, "hopeless", num_steps=30)
    original = owner._train_step

    def step() -> dict[str, torch.Tensor]:
        plant_nan(owner)
        return original()

    owner._train_step = step  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match="third time at step 2"):
        owner.run()
    assert (owner.output / "last.pt").exists() and owner.returns == 2


def test_a_step_with_a_wrong_gradient_changes_nothing(folder: Path) -> None:
    owner = prepared(folder, "single", num_steps=30)
    for _ in range(20):
        owner._train_step()
        owner.step += 1
    before = {name: value.clone() for name, value in owner.model.state_dict().items()}
    original = owner.stage.objective
    owner.stage.objective = lambda *given: (1e4 * original(*given)[0], original(*given)[1])  # type: ignore[assignment]
    parts = owner._train_step()
    assert float(parts["skipped"]) == 1 and float(parts["loss"]) == 0
    assert all(torch.equal(value, before[name]) for name, value in owner.model.state_dict().items())


def test_a_model_is_written_from_the_averages_of_a_cut_run(folder: Path, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "averages", tmp_path / "cut" / "averages")
    settings = {"output": str(tmp_path / "cut"), "autoencoder.encoder_width_8": "32"}
    bundle = export_run(folder / "recipe.toml", overrides=settings)
    codecs = sdcodec.Codec(bundle), sdcodec.Codec(finished / "bundle")
    assert codecs[0].fingerprint == codecs[1].fingerprint
    assert np.asarray(codecs[0].decode(codecs[1].encode(photograph(64, 64)).data)).shape == (64, 64, 3)
    with pytest.raises(TrainingError, match="no complete set"):
        export_run(folder / "recipe.toml", overrides={"output": str(tmp_path / "nothing")})


def test_the_command_trains_and_writes_the_model_of_a_cut_run(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "recipe.toml", tmp_path)
    common = [str(tmp_path / "recipe.toml"), "--data", str(folder / "photos"), "--set", "output=run"]
    runner = CliRunner()
    done = runner.invoke(command, [*common, "--steps", "2"])
    assert done.exit_code == 0 and "12 images for training" in done.output and "crops/s" in done.output
    before = sdcodec.Codec(tmp_path / "run" / "bundle").fingerprint
    shutil.rmtree(tmp_path / "run" / "bundle")
    done = runner.invoke(command, [*common, "--export"])
    assert done.exit_code == 0 and sdcodec.Codec(tmp_path / "run" / "bundle").fingerprint == before
    further = [*common[:-1], "output=further", "--steps", "1", "--from", str(tmp_path / "run" / "bundle")]
    assert runner.invoke(command, further).exit_code == 0
    assert "trains nothing" in runner.invoke(command, [*common, "--export", "--steps", "1"]).output


def test_averages_are_files_of_15_mb_of_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {f"layer{i}": torch.full((1000,), float(i)) for i in range(12)}
    monkeypatch.setattr(averages, "LARGEST_FILE", 204_000 + 4000)
    for step in (1, 2):
        save_averages(tmp_path, Averages(weights, step, {"validation_loss": 1.0}))
    # Twelve files of float32 are more than eight: float16 takes six.
    files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert len(files) == 6 and all(name.startswith("average-2-") for name in files)
    loaded = load_averages(tmp_path)
    assert loaded.step == 2 and loaded.description == {"validation_loss": 1.0}
    assert all(torch.equal(loaded.weights[name], value) for name, value in weights.items())
    (tmp_path / files[0]).rename(tmp_path / files[0].replace("-2-", "-3-"))  # a set that is not complete
    with pytest.raises(TrainingError, match="no complete set"):
        load_averages(tmp_path)
