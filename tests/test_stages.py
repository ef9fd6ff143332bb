"""Stages after the codec: realism, its control without discriminator, previews."""

from __future__ import annotations

import csv
import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sdcodec
import sdcodec.training.run
from conftest import SMALL, SMALL_PRIOR, photograph
from sdcodec.bundles.store import read_manifest
from sdcodec.errors import TrainingError
from sdcodec.training import realism, trainer
from sdcodec.training.config import load_config
from sdcodec.training.discriminator import Discriminator, discriminator_loss
from sdcodec.training.realism import RealismStage, choose_realism
from sdcodec.training.restore import restore
from sdcodec.training.run import export_run, prepare, train
from sdcodec.training.stages import CodecStage
from sdcodec.training.trainer import Trainer

SETTINGS = {
    "name": "vivid",
    "seed": 3,
    "learning_rate": 2e-3,
    "realism_rate": 1e-3,
    "adversarial": 0.4,
    "lpips_weight": 5.0,
    "lpips_vgg_weight": 2.0,
    "dists_weight": 10.0,
    "vgg_images": 1,
    "crop_size": 64,
    "batch": 3,
    "validation_images": 0,
}

LENGTH = 6  # steps of most runs
ALL = {"stage": "all", "start_from": "", "num_steps": LENGTH, "realism_share": 0.4, "previews_share": 0.2}


def table(name: str, values: dict[str, object]) -> str:
    return f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, vgg_file: Path) -> Path:
    folder = tmp_path_factory.mktemp("stages")
    (folder / "photos").mkdir()
    for seed in range(8):
        Image.fromarray(photograph(128, 144, seed)).save(folder / "photos" / f"{seed}.png")
    values = SETTINGS | {"data": ["photos"], "vgg": str(vgg_file)}
    recipe = "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
    (folder / "recipe.toml").write_text(
        recipe + table("autoencoder", SMALL.stored()) + table("prior", asdict(SMALL_PRIOR))
    )
    return folder


@pytest.fixture(scope="module")
def run(folder: Path, random_bundle: Path) -> Callable[..., Path]:
    def run(output: str, *, resume: bool = False, **settings: object) -> Path:
        return train(folder / "recipe.toml", resume=resume, overrides=overrides(output, random_bundle, settings))

    return run


@pytest.fixture(scope="module")
def prepared(folder: Path, random_bundle: Path) -> Callable[..., Trainer]:
    def prepared(output: str, **settings: object) -> Trainer:
        return prepare(load_config(folder / "recipe.toml", overrides(output, random_bundle, settings)))

    return prepared


def overrides(output: str, bundle: Path, settings: dict[str, object]) -> dict[str, str]:
    values = {"output": output, "stage": "realism", "start_from": str(bundle)} | settings
    return {key: json.dumps(value) for key, value in values.items()}


@pytest.fixture(scope="module")
def finished(run) -> Path:
    return run("finished", num_steps=LENGTH)


@pytest.fixture(scope="module")
def loads(run) -> list[object]:
    """Run all stages as `all`; return what it loaded, each time."""
    calls, original = [], sdcodec.training.run.load_photographs

    def load(*given):
        calls.append(given)
        return original(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sdcodec.training.run, "load_photographs", load)
        run("all", **ALL)
    return calls


def logged(output: Path, name: str) -> list[float]:
    with (output / "log.csv").open() as file:
        return [float(row["value"]) for row in csv.DictReader(file) if row["name"] == name]


def images(bundle: Path, data: bytes, **options: float) -> np.ndarray:
    codec = sdcodec.Codec(bundle, device="cpu", precision="float32")
    return np.asarray(codec.decode(data, **options)).astype(int)


def test_the_stage_begins_at_the_decoder_of_the_codec(prepared, random_bundle):
    stage = prepared("begun", num_steps=4).stage
    own, batch = restore(read_manifest(random_bundle)), torch.rand(2, 3, 64, 64)
    assert all(bool((stage.model.state_dict()[name] == value).all()) for name, value in own.weights.items())
    quality = torch.tensor([20.0, 80.0])
    stage.model.eval()
    with torch.no_grad():
        faithful, vivid = (stage.model(batch, quality, level).images for level in (0.0, 1.0))
    assert torch.equal(faithful, vivid)


def test_weights_between_decode_between(prepared):
    model = prepared("between", num_steps=4).stage.model.eval()
    latents, quality = torch.rand(1, SMALL.latent_channels, 4, 4), torch.tensor([20.0])
    with torch.no_grad():
        model.vivid.exit.bias += 0.5  # of the last layer, in which images are linear
        faithful, half, vivid = (model.decode(latents, quality, level) for level in (0.0, 0.5, 1.0))
    assert torch.allclose(vivid - faithful, torch.tensor(0.25), atol=1e-5)
    assert torch.allclose(half, (faithful + vivid) / 2, atol=1e-5)


def test_only_the_vivid_decoder_is_trained_and_files_stay_valid(finished, random_bundle):
    before, after = read_manifest(random_bundle), read_manifest(finished / "bundle")
    assert [prior.fingerprint for prior in after.priors] == [prior.fingerprint for prior in before.priors]
    assert after.configuration["realism"] == 1 and after.default_realism == 0
    old, new = restore(before).weights, restore(after).weights
    changed = {
        name.split(".")[0] for name, value in new.items() if name not in old or not torch.equal(value, old[name])
    }
    assert changed == {"vivid"}
    data = sdcodec.Codec(random_bundle, device="cpu").encode(photograph(64, 64), quality=40).data
    assert sdcodec.Codec(finished / "bundle", device="cpu").symbols_sha256(data)


def test_another_codec_has_no_vivid_decoder_yet(prepared, finished):
    model = prepared("again", stage="codec", start_from=str(finished / "bundle"), num_steps=4).model
    assert not model.autoencoder.realism and not any(name.startswith("vivid.") for name in model.state_dict())
    further = prepared("further", start_from=str(finished / "bundle"), num_steps=4).model
    own = restore(read_manifest(finished / "bundle")).weights
    assert torch.equal(further.vivid.exit.weight, own["vivid.exit.weight"])


def test_the_log_tells_of_the_discriminator(finished):
    assert all(0 <= logged(finished, f"accuracy_{level}")[-1] <= 1 for level in range(5))
    assert logged(finished, "discriminator")[-1] > 0 and logged(finished, "adversarial_weight")[-1] > 0


def test_a_resumed_run_is_the_unbroken_run(run, folder, finished, monkeypatch):
    original = Trainer._train_step

    def step(self: Trainer) -> dict[str, torch.Tensor]:
        if self.step == 3:
            signal.raise_signal(signal.SIGTERM)
        return original(self)

    monkeypatch.setattr(Trainer, "_train_step", step)
    output = run("stopped", num_steps=LENGTH)
    assert not (output / "bundle").exists()
    monkeypatch.setattr(Trainer, "_train_step", original)
    run("stopped", num_steps=LENGTH, resume=True)
    whole, parts = (torch.load(path / "last.pt", weights_only=True) for path in (finished, output))
    for kind in ("model", "average"):
        assert all(torch.equal(value, parts[kind][name]) for name, value in whole[kind].items())
    heads = whole["stage"]["discriminator"]
    assert all(torch.equal(value, parts["stage"]["discriminator"][name]) for name, value in heads.items())


def test_the_control_has_no_discriminator_and_weighs_dists_more(prepared, run):
    owner = prepared("control", num_steps=6, adversarial=0.0)
    stage = owner.stage
    assert isinstance(stage, RealismStage) and stage.discriminator is None
    weighed = []
    original = stage.objective.distortion

    def distortion(*given, further, **options):
        weighed.append(further["dists"])
        return original(*given, further=further, **options)

    stage.objective.distortion = distortion
    stage.backward(torch.rand(3, 3, 64, 64), torch.tensor([[10.0, 50.0, 90.0]]))
    assert weighed == [owner.config.realism_dists]
    output = run("control run", num_steps=3, adversarial=0.0)
    assert logged(output, "discriminator") == [] and len(logged(output, "dists")) == 1


def test_the_adversarial_gradient_follows_the_weights(prepared):
    stage = prepared("zero", num_steps=6, vgg_images=2).stage
    assert isinstance(stage, RealismStage)
    stage.begin(0.5, 1.0)
    stage.norms.fill_(1.0)
    decoded = torch.rand(2, 3, 64, 64, requires_grad=True)
    told, weights = torch.rand(2, SMALL.latent_channels + 1, 8, 8), torch.tensor([0.0, 1.0])
    found, figures, sound = stage._adversarial(
        stage.discriminator, decoded, torch.rand(2, 3, 64, 64), told, weights, torch.ones(2, 3, 64, 64)
    )
    assert float(found[0].abs().max()) == 0 < float(found[1].abs().max()) and bool(sound)
    assert float(figures["adversarial_weight"]) == pytest.approx(stage.config.adversarial)


def test_a_discriminator_that_breaks_sends_the_run_back(prepared, monkeypatch, capsys):
    monkeypatch.setattr(trainer, "LOG_STEPS", 4)
    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", 0.0)
    owner = prepared("broken", num_steps=8)
    original, planted = owner._train_step, []

    def step() -> dict[str, torch.Tensor]:
        if owner.step == 4 and not planted:
            planted.append(True)
            with torch.no_grad():
                owner.stage.heads[0].fill_(torch.nan)
        return original()

    owner._train_step = step
    owner.run()
    assert "back to step 4" in capsys.readouterr().out
    assert owner.step == 8 and all(bool(value.isfinite().all()) for value in owner.stage.heads)


def test_the_discriminator_learns_to_tell_blurred_from_sharp():
    torch.manual_seed(0)
    own = Discriminator(4)
    optimiser = torch.optim.Adam(own.parameters(), 2e-3)
    widths = (64, 128, 256, 512, 512)

    def logits(pictures: torch.Tensor) -> list[torch.Tensor]:
        levels = [torch.nn.functional.avg_pool2d(pictures, 2**level).mean(1, keepdim=True) for level in range(5)]
        features = [level.expand(-1, width, -1, -1) / width**0.5 for level, width in zip(levels, widths, strict=True)]
        return own(pictures, features, torch.zeros(len(pictures), 5, 4, 4))

    losses = []
    for _ in range(100):
        sharp = torch.rand(4, 3, 32, 32)
        blurred = torch.nn.functional.avg_pool2d(sharp, 3, stride=1, padding=1)
        loss = discriminator_loss(logits(sharp), logits(blurred))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_the_pixel_head_sees_fine_detail():
    torch.manual_seed(0)
    head = Discriminator(4).pixels
    optimiser = torch.optim.Adam(head.parameters(), 1e-3)
    for _ in range(100):
        smooth = torch.nn.functional.interpolate(torch.rand(4, 3, 5, 5), size=32, mode="bilinear")
        loss = discriminator_loss([head((smooth + 0.05 * torch.randn_like(smooth)).clamp(0, 1))], [head(smooth)])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.9  # 1.39 at first; from pixels as they are 1.15 after these steps


@pytest.mark.parametrize(
    ("psnr", "dists", "expected"),
    [
        ((30.0, 29.9, 29.8, 29.7, 29.6, 29.5), (0.20, 0.19, 0.18, 0.17, 0.16, 0.15), 1.0),
        ((30.0, 29.9, 29.5, 29.3, 29.2, 29.0), (0.20, 0.19, 0.18, 0.17, 0.16, 0.15), 0.5),
        ((30.0, 29.9, 29.8, 29.7, 29.6, 29.5), (0.20, 0.19, 0.1899, 0.17, 0.16, 0.15), 0.25),
        ((30.0, 29.9, 29.8, 29.7, 29.6, 29.5), (0.20, 0.19, 0.18, 0.1794, 0.1788, 0.1785), 0.75),
        ((30.0, 30.0, 30.0, 30.0, 30.0, 30.0), (0.20, 0.21, 0.18, 0.17, 0.16, 0.15), 0.0),
    ],
)
def test_the_default_realism_stops_at_its_price(prepared, monkeypatch, psnr, dists, expected):
    found = dict(zip(realism.REALISMS, zip(psnr, dists, strict=True), strict=True))
    monkeypatch.setattr(
        realism,
        "validate",
        lambda *given: {"q10_psnr": found[given[-1]][0], "q10_dists": found[given[-1]][1], "q10_mse": 1.0},
    )
    stage = prepared(f"choice {expected}", num_steps=1).stage
    assert choose_realism(stage, np.zeros((1, 64, 64, 3), np.uint8)) == expected


def test_previews_are_trained_with_all_else_frozen(run, finished, random_bundle):
    output = run("previews", stage="previews", num_steps=30, start_from=str(finished / "bundle"), learning_rate=5e-3)
    before, after = (restore(read_manifest(path / "bundle")).weights for path in (finished, output))
    assert {name for name in after if name not in before or not torch.equal(after[name], before[name])} == {
        f"decoder.head_{scale}.{part}" for scale in (8, 4) for part in ("weight", "bias")
    }
    losses = logged(output, "loss")
    assert len(losses) == 1 and read_manifest(output / "bundle").configuration["reduced"] == 1
    data = sdcodec.Codec(random_bundle, device="cpu").encode(photograph(64, 64), quality=40).data
    assert (images(output / "bundle", data) == images(finished / "bundle", data)).all()


def test_previews_come_nearer_to_the_picture(prepared):
    owner = prepared("nearer", stage="previews", num_steps=40, learning_rate=5e-3)
    crops = owner.photographs.crops(1, 0, 4, 64).permute(0, 2, 3, 1).contiguous().numpy()
    owner.stage.begin(0.0, 1.0)
    before = owner.stage.validate(crops)
    for _ in range(40):
        owner._train_step()
        owner.step += 1
    after = owner.stage.validate(crops)
    assert after["mse_8"] < before["mse_8"] and after["mse_4"] < before["mse_4"]
    assert after["whole_8"] == pytest.approx(before["whole_8"])


def test_photographs_are_loaded_once_for_all_stages(loads):
    assert len(loads) == 1


def test_all_stages_make_one_model(run, folder, loads):
    output = folder / "all"
    assert [
        read_manifest(folder / name / "bundle").default_realism for name in ("all-codec", "all-realism", "all")
    ] == [
        None,
        0.0,
        0.0,
    ]
    bundle = read_manifest(output / "bundle")
    assert bundle.configuration["realism"] == bundle.configuration["reduced"] == 1
    assert bundle.priors[0].fingerprint == read_manifest(folder / "all-codec" / "bundle").priors[0].fingerprint
    shutil.rmtree(output)  # as if the run had been cut before its last stage
    assert run("all", resume=True, **ALL) == output
    assert read_manifest(output / "bundle").priors[0].fingerprint == bundle.priors[0].fingerprint


def test_all_stages_need_free_folders_before_the_first(run, folder):
    (folder / "occupied").mkdir()
    (folder / "occupied" / "last.pt").touch()
    with pytest.raises(TrainingError, match="occupied: holds a run already"):
        run("occupied", stage="all", start_from="", num_steps=3)
    assert not (folder / "occupied-codec").exists()


def test_a_run_of_all_stages_that_was_cut_in_one_leaves_its_model(folder, loads, random_bundle):
    for name in ("codec/bundle", "realism/averages"):  # copied to another machine
        shutil.copytree(folder / f"all-{name}", folder / f"moved-{name}")
    description = folder / "moved-realism" / "averages" / "run.json"
    stored = json.loads(description.read_text())
    stored["config"]["start_from"] = "/of/the/other/machine"
    description.write_text(json.dumps(stored))
    written = export_run(folder / "recipe.toml", overrides={"output": '"moved"', "stage": '"all"'})
    assert written == folder / "moved-realism" / "bundle"
    found, expected = (read_manifest(path) for path in (written, folder / "all-realism" / "bundle"))
    assert [prior.fingerprint for prior in found.priors] == [prior.fingerprint for prior in expected.priors]
    values = restore(expected).weights
    assert all(torch.equal(value, values[name]) for name, value in restore(found).weights.items())


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [({"stage": "previews"}, "another stage"), ({"adversarial": 0.0}, r"adversarial is 0\.\d+ in this run and 0 now")],
)
def test_a_run_is_not_resumed_as_another(run, finished, settings, complaint):
    with pytest.raises(TrainingError, match=complaint):
        run("finished", resume=True, **({"num_steps": LENGTH} | settings))


@pytest.mark.parametrize("stage", ["codec", "realism", "previews"])
def test_parts_are_compiled_only_if_gradients_reach_them(prepared, stage):
    owner = prepared(f"blocks {stage}", stage=stage, num_steps=2)
    told = torch.rand(2, 3, 64, 64), torch.tensor([20.0, 80.0])
    loss, _ = owner.stage.objective(owner.model.train(), *told, owner.stage.realism)
    assert loss.requires_grad == owner.stage.compiles


@pytest.mark.parametrize(
    ("settings", "expected"), [({"compile": "on"}, 1), ({}, 0), ({"compile": "on", "stage": "previews"}, 0)]
)
def test_on_a_cpu_parts_are_compiled_if_told(prepared, monkeypatch, settings, expected):
    checked = []
    monkeypatch.setattr(trainer, "use_compiled", lambda parts, *given: checked.append([part.name for part in parts]))
    prepared(f"compiled {settings}", num_steps=2, **settings)._compile()
    assert len(checked) == expected and all("prior" in names for names in checked)


def test_a_cut_run_of_this_stage_leaves_a_model(run, folder, finished, random_bundle, tmp_path):
    (tmp_path / "averages").mkdir()
    for path in (finished / "averages").iterdir():
        shutil.copy(path, tmp_path / "averages")
    export_run(folder / "recipe.toml", overrides=overrides(str(tmp_path), random_bundle, {}))
    found, expected = (restore(read_manifest(path / "bundle")).weights for path in (tmp_path, finished))
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"stage": "realism", "start_from": ""}, "starts from a model"),
        ({"compile": "yes"}, "choose auto, on or off"),
        ({"stage": "vivid"}, "choose codec, realism, previews or all"),
        ({"stage": "all", "realism_share": 0.99}, "together below 1"),
        ({"adversarial": -1.0}, "at least 0"),
        ({"lpips_vgg_weight": 0.0}, "adversarial to 0"),
        ({"stage": "all", "start_from": "", "lpips_vgg_weight": 0.0}, "adversarial to 0"),
        ({"adversarial": 0.0, "dists_weight": 0.0}, "set dists_weight"),
        ({"adversarial": 0.0, "realism_dists": 1.0}, "realism_dists above 1"),
    ],
)
def test_faulty_settings_are_refused(run, settings, complaint):
    with pytest.raises(TrainingError, match=complaint):
        run("faulty", **({"num_steps": 2} | settings))


def test_other_stages_leave_the_codec_stage_as_it_is(prepared):
    owner = prepared("plain", stage="codec", num_steps=2)
    assert type(owner.stage) is CodecStage and not owner.config.autoencoder.realism
    assert len(owner.trained) == len(list(owner.model.parameters()))
