"""Damaged checkpoints and averages of a run: typed errors that name the file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdcodec.errors import TrainingError
from sdcodec.training import run
from sdcodec.training.averages import RUN, load_averages
from sdcodec.training.checkpoint import load_weights

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import fuzz_training


@pytest.fixture(scope="module")
def attack(tmp_path_factory: pytest.TempPathFactory) -> fuzz_training.Attack:
    return fuzz_training.Attack(tmp_path_factory.mktemp("run"))


@given(seed=st.integers(0, (1 << 64) - 1))
@settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=200,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_checkpoint_is_read_or_refused(attack, seed):
    assert attack.read(attack.made(seed))


def test_an_intact_state_is_taken(attack):
    state = fuzz_training._copied(attack.state)
    attack.trainer.go_on_from(state | {"step": 7})
    assert attack.trainer.step == 7


@pytest.mark.parametrize("data", [b"", b"PK\3\4", b"\x80\x02}q\0.", b"text"], ids=["empty", "zip", "pickle", "text"])
def test_other_files_are_no_checkpoints(attack, data):
    attack.path.write_bytes(data)
    for way in (attack.trainer.restore, lambda: load_weights(attack.path)):
        with pytest.raises(TrainingError, match=r"last\.pt: damaged, or no checkpoint"):
            way()


def test_a_missing_checkpoint_is_told(tmp_path):
    with pytest.raises(TrainingError, match=r"none\.pt: cannot be read"):
        load_weights(tmp_path / "none.pt")


def test_code_in_a_checkpoint_is_not_run(attack, tmp_path):
    class Writer:
        def __reduce__(self):
            return Path.touch, (tmp_path / "written",)

    torch.save({"model": Writer()}, attack.path)
    with pytest.raises(TrainingError, match="PyTorch cannot read it"):
        attack.trainer.restore()
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize(
    ("place", "value", "complaint"),
    [
        (("step",), -1, "below 0"),
        (("step",), 1.5, "step is no int"),
        (("seconds",), float("nan"), "seconds is no float"),
        (("config",), None, "no settings"),
        (("config", "adversarial"), torch.zeros(2), "no settings"),
        (("average",), {}, "average has other names"),
        (("average", "gain.values"), torch.zeros(3), "gain.values is no torch.float32 tensor of shape"),
        (("model", "gain.values"), "text", "gain.values is no torch.float32 tensor of shape"),
        (("optimisers",), [], "optimisers are others"),
        (("optimisers", 0, "state"), [], "has no state"),
        (("optimisers", 0, "param_groups"), [], "other parameters"),
        (("optimisers", 0, "state", 0, "exp_avg"), torch.zeros(1, 1, 1), "exp_avg is no"),
        (("optimisers", 1, "state", 10_000), {}, "other parameters"),
        (("stage",), {"discriminator": 1}, "the stage has other names"),
    ],
)
def test_a_state_of_another_structure_is_refused(attack, place, value, complaint):
    state = fuzz_training._copied(attack.state)
    part = state
    for name in place[:-1]:
        part = part[name]
    part[place[-1]] = value
    with pytest.raises(TrainingError, match=f"last.pt: damaged.*{complaint}"):
        attack.trainer.go_on_from(state)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ("[]", "no description"),
        ('{"config": {}}', "no description"),
        ('{"config": {"stage": "codec", "train_only": "", "start_from": "", "autoencoder": 3}}', "3 is no table"),
    ],
    ids=["empty", "deep", "list", "nothing", "number"],
)
def test_a_damaged_description_of_averages_is_refused(attack, text, complaint):
    folder = attack.path.parent / "averages"
    for name, content in attack.averages.items():
        (folder / name).write_bytes(content)
    (folder / RUN).write_text(text)
    with pytest.raises(TrainingError, match=rf"run\.json: .*{complaint}"):
        run._exported_settings(folder / RUN, load_averages(folder))


def test_widths_that_no_memory_holds_are_refused_at_once(attack):
    folder = attack.path.parent / "averages"
    for name, content in attack.averages.items():
        (folder / name).write_bytes(content)
    text = (folder / RUN).read_text()
    (folder / RUN).write_text(text.replace('"decoder_width_2": 4', '"decoder_width_2": 4000000000'))
    with pytest.raises(TrainingError, match=r"run\.json: weights of another model"):
        run._exported_settings(folder / RUN, load_averages(folder))


@pytest.mark.parametrize("value", [torch.zeros(0), {"latent_channels": torch.zeros(0)}, 3, None])
def test_settings_of_another_kind_are_another_run(attack, value):
    state = fuzz_training._copied(attack.state)
    state["config"]["autoencoder"] = value
    with pytest.raises(TrainingError, match="another autoencoder"):
        attack.trainer.go_on_from(state)
