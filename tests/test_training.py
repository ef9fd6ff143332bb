"""Training: it learns, stops, resumes exactly, and ends with a model that encodes."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import sdcodec
from conftest import SMALL, SMALL_PRIOR, photograph, with_adaptive_prior
from sdcodec.bundles import store
from sdcodec.bundles.writing import keep_priors
from sdcodec.errors import TrainingError
from sdcodec.training.config import load_config
from sdcodec.training.export import prior_tensors
from sdcodec.training.model import TrainingModel
from sdcodec.training.restore import Restored, restore
from sdcodec.training.run import prepare, train

CONFIG = """
data = ["photos"]
output = "run"
name = "trial"
num_steps = 8
decay = 0.25
warmup = 0.25
quantise_from = 0.5
validate_every = 4
validation_images = 1
crop_size = 64
batch = 2
"""


def section(name: str, values: dict[str, object]) -> str:
    return f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    (folder / "photos").mkdir()
    for seed in range(30):
        Image.fromarray(photograph(256, 288, seed)).save(folder / "photos" / f"{seed}.png")
    (folder / "config.toml").write_text(
        CONFIG + section("autoencoder", asdict(SMALL)) + section("prior", asdict(SMALL_PRIOR))
    )
    return folder


@pytest.fixture(scope="module")
def finished(folder: Path) -> Path:
    return train(folder / "config.toml")


def test_a_run_ends_with_a_model_that_encodes(finished):
    codec = sdcodec.Codec(finished / "bundle")
    encoded = codec.encode(photograph(70, 90), quality=50)
    assert codec.name == "trial" and codec.decode(encoded.data).size == (90, 70)


def test_the_log_tells_of_training_and_validation(finished):
    rows = (finished / "log.csv").read_text().splitlines()
    assert any(row.startswith("validation,8,") for row in rows) and "q45_lpips" in "".join(rows)


def test_a_resumed_run_is_the_unbroken_run(folder, finished, tmp_path):
    overrides = {"output": str(tmp_path / "resumed")}
    train(folder / "config.toml", overrides=overrides | {"num_steps": "4"})
    # The learning rate depends on the whole number of steps: break the long run, not a short one.
    (tmp_path / "resumed" / "last.pt").unlink()
    stop_at_four(folder / "config.toml", overrides)
    train(folder / "config.toml", resume=True, overrides=overrides)
    states = [torch.load(run / "last.pt", weights_only=True) for run in (finished, tmp_path / "resumed")]
    for name, value in states[0]["average"].items():
        assert torch.equal(value, states[1]["average"][name]), name


def stop_at_four(config: Path, overrides: dict[str, str]) -> None:
    """Send the signal that a user would send, from inside step 4."""
    import os
    import signal

    trainer = prepare(load_config(config, overrides))
    original = trainer._train_step

    def step():
        parts = original()
        if trainer.step == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return parts

    trainer._train_step = step
    trainer.run()
    assert trainer.step == 4


def test_an_existing_run_is_not_overwritten(folder, finished):
    with pytest.raises(TrainingError, match="--resume"):
        train(folder / "config.toml")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("stepps = 3", "stepps"),
        ("optimiser = 'sgd'", "muon or adamw"),
        ("crop_size = 100", "multiple of 32"),
        ("batch = 0", "at least 1"),
        ("warmup = 200", "shares of the run"),
        ("minutes = -1.0", "at least 0"),
        ("num_steps = ", "TOML"),
        ("num_steps = 2.5", "num_steps = 2.5: give a whole number"),
        ("autocast = 1", "autocast = 1: give true or false"),
        ("ema = true", "ema = True: give a number"),
        ("qualities = 64", "qualities = 64: give a list"),
        ("prior = 64", "64 is no table of latent_channels"),
        ("[autoencoder]\ndecoder_blocks_8 = 'many'", "decoder_blocks_8 = 'many': give a whole number"),
        ("qualities = [50.0, 10.0]", "the smaller first"),
        ("qualities = [10.0]", "qualities: two numbers from 0 to 100"),
        ("start_from = 3", "start_from = 3: give text"),
        ("train_only = 'decoder'\nstart_from = 'run/last.pt'", "not a checkpoint"),
        ("train_only = 'encoder'", "choose decoder"),
        ("[prior]\nlatent_channels = 32", r"latent_channels: 64 in \[autoencoder\] and 32"),
    ],
)
def test_faulty_configurations_are_refused(tmp_path, line, complaint):
    path = tmp_path / "c.toml"
    path.write_text(f'data = ["."]\noutput = "run"\n{line}\n')
    with pytest.raises(TrainingError, match=complaint):
        load_config(path)


def test_there_has_to_be_a_run_to_resume(folder):
    with pytest.raises(TrainingError, match="no run to resume"):
        train(folder / "config.toml", resume=True, overrides={"output": "elsewhere"})


def test_missing_data_is_refused(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text('data = ["nothing"]\noutput = "run"\nnum_steps = 1\n')
    with pytest.raises(TrainingError, match="nothing"):
        train(path)


def test_a_shipped_model_can_be_trained_further() -> None:
    bundle = store.find(store.DEFAULT)
    assert_exported_again(restore(bundle), bundle)


def assert_exported_again(restored: Restored, bundle: store.Bundle) -> None:
    """Check the prior's tensors, but for the rounding of rows between the knots."""
    model = TrainingModel(restored.autoencoder, restored.prior)
    model.load_state_dict(restored.weights)
    stored = load_file(bundle.folder / bundle.priors[0].file)
    exported = prior_tensors(model.prior)
    assert {f"prior.{name}" for name in exported} == {name for name in stored if name.startswith("prior.")}
    for name, value in exported.items():
        was = stored[f"prior.{name}"]
        if name.endswith((".weight", ".shift", ".cell")):
            assert torch.equal(value, was), name
        else:  # rows between the knots were rounded on their own
            assert torch.allclose(value.double(), was.double(), atol=4, rtol=1e-6), name


@pytest.fixture(scope="module")
def decoder_run(folder: Path, random_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Make a bundle of two priors, and the bundle of a run that trained its decoder."""
    earlier = tmp_path_factory.mktemp("earlier") / "random"
    shutil.copytree(random_bundle, earlier)
    other = tmp_path_factory.mktemp("other") / "adaptive"
    shutil.copytree(random_bundle, other)
    with_adaptive_prior(other)
    keep_priors(store.read_manifest(earlier), store.read_manifest(other))
    (folder / "decoder.toml").write_text(
        f'data = ["photos"]\noutput = "decoder"\nstart_from = "{earlier}"\ntrain_only = "decoder"\nnum_steps = 1\n'
        "validation_images = 1\ncrop_size = 64\nbatch = 1\n"
    )
    return earlier, train(folder / "decoder.toml") / "bundle"


def test_training_the_decoder_keeps_the_fingerprint_and_the_files(decoder_run: tuple[Path, Path]) -> None:
    earlier, trained = decoder_run
    before, after = sdcodec.Codec(earlier), sdcodec.Codec(trained)
    data = before.encode(photograph(70, 90), quality=40).data
    assert after.fingerprint == before.fingerprint
    assert after.symbols_sha256(data) == before.symbols_sha256(data)
    changed = set()
    for file in ("autoencoder.safetensors", "prior.safetensors"):
        old, new = load_file(earlier / file), load_file(trained / file)
        names = {name for name in old if not torch.equal(new[name], old[name])}
        changed |= {name.split(".")[0] for name in names} if file == "autoencoder.safetensors" else names
    assert changed == {"decoder", "decoder_bias", "inverse_gain"}


def test_training_the_decoder_keeps_every_prior(decoder_run: tuple[Path, Path]) -> None:
    before, after = (store.read_manifest(folder) for folder in decoder_run)
    assert len(before.priors) == 2
    assert [entry.fingerprint for entry in after.priors] == [entry.fingerprint for entry in before.priors]


def test_a_checkpoint_of_another_shape_is_refused(folder: Path, finished: Path) -> None:
    overrides = {
        "output": str(folder / "other"),
        "start_from": str(finished / "last.pt"),
        "autoencoder.decoder_width_2": "12",
    }
    with pytest.raises(TrainingError, match=r"last.pt: weights of another model \(decoder.up_2.weight"):
        train(folder / "config.toml", overrides=overrides)


@pytest.mark.parametrize("name", ["dists", "lpips_vgg"])
def test_distances_over_vgg_can_be_trained_on(folder: Path, vgg_file: Path, name: str) -> None:
    overrides = {
        "output": name,
        "num_steps": "1",
        "validation_images": "0",
        f"{name}_weight": "1.0",
        "vgg": str(vgg_file),
    }
    trainer = prepare(load_config(folder / "config.toml", overrides))
    loss, parts = trainer.stage.objective(trainer.model, torch.rand(1, 3, 64, 64), torch.tensor([30.0]))
    assert 0 < parts[name] < float(loss.detach())
    assert trainer.run() == folder / name


def test_vgg_sees_part_of_a_batch_in_training_and_all_in_validation(folder: Path, vgg_file: Path) -> None:
    overrides = {"output": "some", "dists_weight": "1.0", "vgg_images": "1", "vgg": str(vgg_file)}
    trainer = prepare(load_config(folder / "config.toml", overrides))
    images, qualities = torch.rand(1, 3, 64, 64).expand(2, -1, -1, -1), torch.tensor([30.0, 30.0])
    looked_at = []

    class Counting:
        def distance(self, reconstructed: torch.Tensor, originals: torch.Tensor) -> torch.Tensor:
            looked_at.append(originals)
            return reconstructed.mean(dim=(1, 2, 3))

    trainer.stage.objective.vgg_terms = {"dists": (1.0, Counting()), "lpips_vgg": (1.0, Counting())}
    images = images * torch.tensor([0.5, 1.0]).view(2, 1, 1, 1)
    for training in (True, False):
        trainer.stage.objective(trainer.model.train(training), images, qualities)
    first, second, *whole = looked_at  # each distance sees a part of its own
    assert torch.equal(first, images[:1]) and torch.equal(second, images[1:])
    assert [len(seen) for seen in whole] == [2, 2]


@pytest.mark.parametrize("name", ["dists", "lpips_vgg"])
def test_missing_vgg_weights_are_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("sdcodec.training.objective.find_vgg16", lambda: None)
    with pytest.raises(TrainingError, match="give their file as --vgg"):
        train(folder / "config.toml", overrides={"output": "none", f"{name}_weight": "1.0"})


def test_the_recipe_of_the_shipped_model_can_be_read() -> None:
    config = load_config(Path(__file__).parents[1] / "recipes" / "base.toml", {"data": "/photographs"})
    assert config.name == store.DEFAULT and config.data == ("/photographs",)
