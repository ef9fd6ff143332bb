"""Training: it learns, stops and resumes exactly, and ends with a model that encodes."""

from __future__ import annotations

import copy
import csv
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import sdcodec
from conftest import SMALL, SMALL_PRIOR, photograph
from sdcodec.autoencoders.tiny import TinyDecoder
from sdcodec.bundles import store
from sdcodec.errors import TrainingError
from sdcodec.training import losses
from sdcodec.training.config import load_config
from sdcodec.training.data import crop_batch
from sdcodec.training.export import prior_tensors
from sdcodec.training.growth import deepened, grown, with_hyper_context
from sdcodec.training.hyper_fit import fit_hyper_passes
from sdcodec.training.model import TrainingModel
from sdcodec.training.objective import on_some
from sdcodec.training.optim import Optimisers, orthogonalise, rate_factor
from sdcodec.training.restore import Restored, restore
from sdcodec.training.revive import revive_channels
from sdcodec.training.run import train

CONFIG = """
data = ["photos"]
output = "run"
name = "trial"
steps = 8
decay = 2
warmup = 2
spread_start = 1
spread_end = 3
quantise_from = 5
validate_every = 4
checkpoint_every = 4
crops = [{ start = 0, size = 64, batch = 2 }]
"""


def section(name: str, values: dict[str, object]) -> str:
    return f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    (folder / "photos").mkdir()
    for seed in range(30):
        Image.fromarray(photograph(256, 288, seed)).save(folder / "photos" / f"{seed}.png")
    (folder / "config.toml").write_text(CONFIG + section("tiny", asdict(SMALL)) + section("prior", asdict(SMALL_PRIOR)))
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
    train(folder / "config.toml", overrides=overrides | {"steps": "4"})
    # The learning rate depends on the whole number of steps: break the long run, not a short one.
    (tmp_path / "resumed" / "last.pt").unlink()
    stop_at_four(folder / "config.toml", overrides)
    train(folder / "config.toml", resume=True, overrides=overrides)
    states = [torch.load(run / "last.pt", weights_only=True) for run in (finished, tmp_path / "resumed")]
    for name, value in states[0]["average"].items():
        assert torch.equal(value, states[1]["average"][name]), name


def stop_at_four(config: Path, overrides: dict[str, str]) -> None:
    """Sends the signal that a user would send, from inside step 4."""
    import os
    import signal

    from sdcodec.training.run import Trainer

    trainer = Trainer(load_config(config, overrides), resume=False)
    original = trainer._train_step

    def step(images):
        parts = original(images)
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
        ("crops = [{start = 0, size = 50, batch = 1}]", "multiples of 32"),
        ("steps = ", "TOML"),
        ("steps = 2.5", "steps = 2.5: a whole number is wanted"),
        ("revive = 1", "revive = 1: true or false is wanted"),
        ("ema = true", "ema = True: a number is wanted"),
        ("crops = 64", "crops = 64: a list is wanted"),
        ("crops = [64]", "64 stands where a table of start, size, batch is wanted"),
        ("[tiny]\nblock = 3", "block = 3: text is wanted"),
        ("scales = [1.0, 0.5]", "scales: two factors above 0"),
        ("scales = ['all', 1.0]", "scales: two factors above 0"),
        ("qualities = [10.0]", "qualities: two numbers from 0 to 100"),
        ("start_from = 3", "start_from = 3: text is wanted"),
        ("train_only = 'decoder'\nstart_from = 'run/last.pt'", "not a checkpoint"),
        ("train_only = 'decoder'\nstart_from = 'tiny'\ngrow_to = 64", "leave out train_only"),
        ("train_only = 'decoder'\nstart_from = 'tiny'\ngrow_hyper_context = 8", "the prior has to be trained"),
        ("train_only = 'decoder'\nstart_from = 'tiny'\nhyper_steps = 8", "the prior has to be trained"),
        ("deepen_to = {decoder_blocks_8 = 9}", "deepen_to: start_from has to name a model"),
        (
            "train_only = 'prior'\nstart_from = 'tiny'\ndeepen_to = {decoder_blocks_8 = 9}",
            "transforms have to be trained",
        ),
        ("deepen_to = 9", "deepen_to = 9: a table is wanted"),
    ],
)
def test_faulty_configurations_are_refused(tmp_path, line, complaint):
    path = tmp_path / "c.toml"
    path.write_text(f'data = ["."]\noutput = "run"\n{line}\n')
    with pytest.raises(TrainingError, match=complaint):
        load_config(path)


def test_there_has_to_be_a_run_to_resume(folder):
    with pytest.raises(TrainingError, match="no run there"):
        train(folder / "config.toml", resume=True, overrides={"output": "elsewhere"})


def test_missing_data_is_refused(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text('data = ["nothing"]\noutput = "run"\n')
    with pytest.raises(TrainingError, match="nothing"):
        train(path)


def test_crops_are_scaled_down_as_far_as_asked() -> None:
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255  # gone where scaled down

    def contrasts(scales: tuple[float, float]) -> torch.Tensor:
        return crop_batch([stripes], 1, 0, 24, 64, scales).float().std(dim=(1, 2, 3))

    whole, half = contrasts((1.0, 1.0)), contrasts((0.5, 0.5))
    assert (whole > 120).all()
    assert 6 <= int((half < 60).sum()) <= 18 and (half[half >= 60] > 120).all()


def test_dead_channels_are_revived_and_live_ones_left_alone():
    torch.manual_seed(3)
    model = TrainingModel(SMALL, SMALL_PRIOR)
    dead = [1, 4, 6]
    with torch.no_grad():
        model.encoder.exit.weight[dead] = 0
        model.encoder.exit.bias[dead] = 0
        model.gain.values += 2.0
        for network in model.prior.passes:
            network.head.weight.zero_()  # an untrained prior's predictions would move dead channels too
    before = model.encoder.exit.weight.clone()
    images = torch.stack([torch.from_numpy(photograph(64, 64, s)).permute(2, 0, 1) / 255.0 for s in range(8)])
    assert revive_channels(model, images) == len(dead)
    live = [i for i in range(SMALL.latent_channels) if i not in dead]
    assert torch.equal(model.encoder.exit.weight[live], before[live])
    with torch.no_grad():
        spread = model.encoder(images).std((0, 2, 3))
    assert ((spread[dead] > 0.3) & (spread[dead] < 3)).all()


@pytest.mark.parametrize(
    ("name", "larger"),
    [
        ("tiny", lambda model: with_hyper_context(grown(model, 48), 16)),
        ("tiny", lambda model: deepened(model, {"encoder_blocks_4": 2, "decoder_blocks_8": 10})),
        ("tiny-3", lambda model: deepened(model, {"encoder_blocks_8": 5, "decoder_blocks_4": 3})),
    ],
)
def test_a_larger_model_computes_what_it_did_before(name: str, larger: Callable[[Restored], Restored]) -> None:
    restored = restore(store.find(name))
    assert larger(restored).weights.keys() > restored.weights.keys()
    models = []
    for each in (restored, larger(restored)):
        model = TrainingModel(each.tiny, each.prior).eval()
        model.load_state_dict(each.weights)
        models.append(model)
    images = torch.stack([torch.from_numpy(photograph(64, 96, s)).permute(2, 0, 1) / 255.0 for s in range(2)])
    with torch.no_grad():
        before, after = (model(images, torch.tensor([20.0, 80.0])) for model in models)
    assert torch.allclose(after.images, before.images, atol=1e-5)
    assert torch.allclose(after.coded.bits, before.coded.bits, rtol=1e-3)


def test_new_channels_tell_what_was_missing() -> None:
    restored = grown(restore(store.find("tiny")), 64)
    model = TrainingModel(restored.tiny, restored.prior)
    model.load_state_dict(restored.weights)
    images = torch.stack([torch.from_numpy(photograph(128, 128, s)).permute(2, 0, 1) / 255.0 for s in range(16)])
    images = (images + 0.05 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)

    def missing() -> float:
        with torch.no_grad():
            return float((model.eval()(images[:2], torch.full((2,), 100.0)).images - images[:2]).square().mean())

    before = missing()
    assert revive_channels(model, images[2:]) >= 32
    assert missing() < 0.8 * before


@pytest.mark.parametrize("channels", [32, 50])
def test_channels_grow_by_whole_groups(channels: int) -> None:
    with pytest.raises(TrainingError, match="larger multiple of 4"):
        grown(restore(store.find("tiny")), channels)


@pytest.mark.parametrize("blocks", [{"decoder_blocks_8": 1}, {"decoder_width_8": 200}, {"blocks": 9}])
def test_what_cannot_grow_deeper_is_refused(blocks: dict[str, int]) -> None:
    with pytest.raises(TrainingError, match=r"numbers of encoder_blocks_4, .*decoder_blocks_4 can grow"):
        deepened(restore(store.find("tiny-3")), blocks)


def test_a_run_can_begin_with_more_channels(folder: Path) -> None:
    (folder / "wide.toml").write_text(
        'data = ["photos"]\noutput = "wide"\nstart_from = "tiny"\ngrow_to = 36\nrevive = true\nsteps = 1\nwarmup = 1\n'
        "deepen_to = { encoder_blocks_8 = 5 }\n"
        "grow_hyper_context = 12\nhyper_steps = 2\nquantise_from = 0\nvalidation_images = 1\n"
        "crops = [{ start = 0, size = 64, batch = 1 }]\n"
    )
    bundle = store.read_manifest(train(folder / "wide.toml") / "bundle")
    restored = restore(bundle)
    assert (restored.tiny.latent_channels, restored.tiny.direct, restored.prior.hyper_context) == (36, True, 12)
    assert restored.tiny.encoder_blocks_8 == 5
    assert_exported_again(restored, bundle)
    with pytest.raises(TrainingError, match="such networks already"):
        with_hyper_context(restored, 12)
    codec = sdcodec.Codec(bundle.folder)
    picture = photograph(70, 90)
    decoded = np.asarray(codec.decode(codec.encode(picture, quality=80).data)).astype(float)
    assert np.square(decoded - picture).mean() < 0.2 * np.square(picture - picture.mean((0, 1))).mean()


def test_a_shipped_model_can_be_trained_further() -> None:
    bundle = store.find("tiny")
    assert_exported_again(restore(bundle), bundle)


def assert_exported_again(restored: Restored, bundle: store.Bundle) -> None:
    """The prior's tensors are the bundle's, but for the rounding of rows between the knots."""
    model = TrainingModel(restored.tiny, restored.prior)
    model.load_state_dict(restored.weights)
    stored = load_file(bundle.folder / bundle.priors[0].file)
    exported = prior_tensors(model.prior)
    assert {f"prior.{name}" for name in exported} == {name for name in stored if name.startswith("prior.")}
    for name, value in exported.items():
        was = stored[f"prior.{name}"]
        if name.endswith((".weight", ".shift", ".cell")):
            assert torch.equal(value, was), name
        else:  # rows between the knots were rounded on their own
            assert torch.allclose(value.double(), was.double(), atol=3, rtol=1e-6), name


@pytest.mark.parametrize("part", ["decoder", "transforms"])
def test_training_around_the_prior_keeps_the_fingerprint_and_the_files(folder: Path, part: str) -> None:
    (folder / "around.toml").write_text(
        f'data = ["photos"]\noutput = "{part}"\nstart_from = "tiny"\ntrain_only = "{part}"\nsteps = 1\nwarmup = 1\n'
        "quantise_from = 0\nvalidation_images = 1\ncrops = [{ start = 0, size = 64, batch = 1 }]\n"
    )
    trained = train(folder / "around.toml") / "bundle"
    data = (Path(__file__).parent / "golden" / "tiny-64ef351e" / "one-pixel.sdc").read_bytes()
    before, after = sdcodec.Codec("tiny"), sdcodec.Codec(trained)
    assert after.fingerprint == before.fingerprint
    assert after.symbols_sha256(data) == before.symbols_sha256(data)
    shipped = store.find("tiny").folder
    changed = set()
    for file in ("autoencoder.safetensors", "prior.safetensors"):
        old, new = load_file(shipped / file), load_file(trained / file)
        names = {name for name in old if not torch.equal(new[name], old[name])}
        changed |= {name.split(".")[0] for name in names} if file == "autoencoder.safetensors" else names
    assert {name for name in changed if not name.startswith("prior.analyse")} == (
        {"decoder", "decoder_bias", "inverse_gain"} | ({"encoder"} if part == "transforms" else set())
    )
    assert ("prior.analyse_1.weight" in changed) == (part == "transforms")


def test_priors_can_be_kept_behind_a_new_one(folder: Path) -> None:
    (folder / "joint.toml").write_text(
        'data = ["photos"]\noutput = "joint"\nstart_from = "tiny"\nkeep_priors = true\nsteps = 1\nwarmup = 1\n'
        "quantise_from = 0\nvalidation_images = 1\ncrops = [{ start = 0, size = 64, batch = 1 }]\n"
    )
    trained = store.read_manifest(train(folder / "joint.toml") / "bundle")
    earlier = [entry.fingerprint for entry in store.find("tiny").priors]
    assert [entry.fingerprint for entry in trained.priors[1:]] == earlier
    data = (Path(__file__).parent / "golden" / "tiny-64ef351e" / "one-pixel.sdc").read_bytes()
    assert trained.priors[0].fingerprint not in earlier
    assert sdcodec.Codec(trained.folder).symbols_sha256(data) == sdcodec.Codec("tiny").symbols_sha256(data)
    overrides = {"output": str(folder / "again"), "start_from": f"{trained.folder}/", "train_only": "decoder"}
    again = store.read_manifest(train(folder / "joint.toml", overrides=overrides) / "bundle")
    assert [entry.fingerprint for entry in again.priors] == [entry.fingerprint for entry in trained.priors]


def test_a_prior_can_be_trained_alone_without_decoding_a_picture(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "alone.toml").write_text(
        'data = ["photos"]\noutput = "alone"\nstart_from = "tiny"\ntrain_only = "prior"\nsteps = 2\nwarmup = 1\n'
        "quantise_from = 0\nvalidation_images = 1\ncrops = [{ start = 0, size = 64, batch = 1 }]\n"
    )
    monkeypatch.setattr(TinyDecoder, "forward", lambda *_: pytest.fail("a picture was decoded"))
    trained = store.read_manifest(train(folder / "alone.toml") / "bundle")
    shipped = store.find("tiny")
    assert [entry.fingerprint for entry in trained.priors[1:]] == [entry.fingerprint for entry in shipped.priors]
    own, was = (load_file(bundle.folder / bundle.autoencoder_file) for bundle in (trained, shipped))
    changed = [name for name, value in was.items() if not torch.equal(value, own[name])]
    assert set(changed) <= {"decoder_bias"}  # rows between the knots were rounded on their own
    names = {name for kind, _, _, name, _ in csv.reader((folder / "alone" / "log.csv").open()) if kind == "validation"}
    assert names == {"loss"} | {f"q{q}_{part}" for q in (10, 30, 45, 60, 85) for part in ("bpp", "hyper_bpp")}


def test_networks_for_hyper_latents_learn_alone_and_nothing_else_changes() -> None:
    restored = with_hyper_context(restore(store.find("tiny")), 16)
    model = TrainingModel(restored.tiny, restored.prior)
    model.load_state_dict(restored.weights)
    images = crop_batch([photograph(256, 192)], 1, 0, 24, 128)
    before, after = fit_hyper_passes(model, images, 60)
    assert after < 0.9 * before
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, restored.weights[name])}
    own = {f"prior.{name}.values" for name in ("hyper_mean", "hyper_scale")}
    assert {name for name in changed if not name.startswith("prior.hyper_passes.")} == own
    with pytest.raises(TrainingError, match="8 photographs or more"):
        fit_hyper_passes(model, images[:7], 1)
    plain = TrainingModel(restored.tiny, replace(restored.prior, hyper_context=0))
    with pytest.raises(TrainingError, match="grow_hyper_context gives it some"):
        fit_hyper_passes(plain, images, 1)


def test_a_checkpoint_of_another_shape_is_refused(folder: Path, finished: Path) -> None:
    overrides = {"output": str(folder / "other"), "start_from": str(finished / "last.pt"), "tiny.decoder_width_2": "12"}
    with pytest.raises(TrainingError, match=r"last.pt: weights of another model \(decoder.up_2.weight"):
        train(folder / "config.toml", overrides=overrides)


def test_priors_of_nothing_cannot_be_kept(folder: Path) -> None:
    with pytest.raises(TrainingError, match="start_from has to name a model"):
        load_config(folder / "config.toml", {"keep_priors": "true"})


@pytest.mark.parametrize("shape", [(2, 16, 144), (3, 24, 24)])
def test_steps_on_gram_matrices_are_the_steps_of_newton_and_schulz(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected = matrices / matrices.norm(dim=(1, 2), keepdim=True)
    for _ in range(5):
        gram = expected @ expected.mT
        expected = 3.4445 * expected - 4.7750 * gram @ expected + 2.0315 * gram @ gram @ expected
    assert torch.allclose(orthogonalise(matrices), expected, atol=1e-4)
    assert torch.linalg.svdvals(orthogonalise(matrices))[:, : shape[1] // 2].sub(1).abs().max() < 0.35


def test_a_wrong_colour_counts_as_a_cast_and_noise_hardly_does() -> None:
    colour = torch.tensor([3.0, 0.0, -6.0]).view(1, 3, 1, 1).expand(2, 3, 64, 64)
    assert losses.cast(colour).tolist() == pytest.approx([15.0, 15.0])
    noise = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    assert losses.cast(noise) < 0.01 and losses.grid(colour).tolist() == [0.0, 0.0]


def test_what_repeats_from_latent_to_latent_counts_as_a_grid_and_noise_hardly_does() -> None:
    generator = torch.Generator().manual_seed(1)
    cell = torch.randn(1, 3, 8, 8, generator=generator)
    repeated = cell.tile(1, 1, 12, 12)
    own_means = cell.mean((2, 3), keepdim=True)
    assert float(losses.grid(repeated)) == pytest.approx(float((cell - own_means).square().mean()), rel=1e-4)
    noise = torch.randn(1, 3, 96, 96, generator=generator)
    assert float(losses.grid(noise)) == pytest.approx(1 / 36, rel=0.2)


@pytest.mark.parametrize(
    ("looked_at", "expected"), [(2, [4.0, 8.0, 0.0, 0.0]), (4, [2.0, 4.0, 6.0, 8.0]), (0, [2.0, 4.0, 6.0, 8.0])]
)
def test_a_distance_on_some_of_a_batch_weighs_as_on_all(looked_at: int, expected: list[float]) -> None:
    class Difference:
        def distance(self, images: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
            return (images - others).mean(dim=(1, 2, 3))

    originals = torch.zeros(4, 3, 2, 2)
    reconstructed = originals + 2 * torch.arange(1.0, 5.0).view(4, 1, 1, 1)
    assert on_some(Difference(), reconstructed, originals, looked_at).tolist() == expected


def test_learning_rates_rise_stay_and_fall_to_nothing() -> None:
    steps = [rate_factor(step + 1, 10 - step, warmup=2, decay=4) for step in range(11)]
    assert steps == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0])
    assert [rate_factor(1, left, 0, 0) for left in (9, 1)] == [1, 1]


def test_optimisers_move_each_group_at_its_own_rate_and_go_on_where_they_stopped() -> None:
    def made() -> tuple[list[torch.Tensor], Optimisers]:
        values = [torch.ones(4, 8), torch.ones(3), torch.ones(3)]
        groups = [{"params": [values[1]]}, {"params": [values[2]], "lr": 0.3}]
        return values, Optimisers([values[0]], groups, 0.1)

    def step(values: list[torch.Tensor], optimisers: Optimisers, factor: float) -> None:
        optimisers.zero_grad()
        for value in values:
            value.grad = value.square()
        optimisers.set_rate(factor)
        optimisers.step()

    values, optimisers = made()
    step(values, optimisers, 0.5)
    assert [float(1 - value.mean()) for value in values[1:]] == pytest.approx([0.05, 0.15], rel=1e-4)
    assert 0 < float(1 - values[0].mean()) < 0.05
    state, kept = copy.deepcopy(optimisers.state()), [value.clone() for value in values]
    step(values, optimisers, 1.0)
    others, resumed = made()
    for other, value in zip(others, kept, strict=True):
        other.copy_(value)
    resumed.restore(state)
    step(others, resumed, 1.0)
    assert all(torch.equal(value, other) for value, other in zip(values, others, strict=True))
