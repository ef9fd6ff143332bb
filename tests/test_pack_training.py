"""Tests of the parts that a GPU machine without internet needs for a run."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from conftest import save_photographs
from sdcodec.perceptual.vgg import read_vgg16
from sdcodec.training.data import find_images

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import pack_training

RECIPE = Path(__file__).parents[1] / "recipes" / "base.toml"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, vgg_file: Path) -> tuple[Path, str]:
    """Return the folder with the parts unpacked, and the printed commands."""
    folder = tmp_path_factory.mktemp("pack")
    (folder / "set").mkdir()
    save_photographs(folder / "set" / "one", 27, 96)
    patch = pytest.MonkeyPatch()
    patch.setattr(pack_training, "LARGEST_PART", 40_000_000)
    patch.setattr(pack_training, "download_wheels", lambda to, _: (to / "a-1-py3-none-any.whl").write_bytes(b"wheel"))
    said: list[str] = []
    patch.setattr("builtins.print", lambda text: said.append(text))
    names = ("--data", str(folder / "set"), "--vgg", str(vgg_file), "--out", str(folder / "parts"))
    pack_training.main([str(RECIPE), *names, "--minutes", "7"])
    patch.undo()
    parts = sorted((folder / "parts").iterdir())
    assert len(parts) == 2 and all(part.stat().st_size <= 40_000_000 for part in parts)
    for part in parts:
        with tarfile.open(part) as archive:
            archive.extractall(folder / "train", filter="data")
    return folder, said[0]


def test_the_parts_hold_everything(packed: tuple[Path, str], vgg_file: Path) -> None:
    folder, _ = packed
    train = folder / "train"
    assert {path.name for path in train.iterdir()} == {
        *("sdcodec", "sdcodec_cli", "recipe.toml", "vgg16.safetensors", "wheels", "photographs")
    }
    assert [path.name for path in (train / "sdcodec" / "bundles").iterdir() if path.is_dir()] == ["base"]
    assert (train / "recipe.toml").read_bytes() == RECIPE.read_bytes()
    assert {value.dtype for value in load_file(train / "vgg16.safetensors").values()} == {torch.float16}
    theirs, ours = read_vgg16(train / "vgg16.safetensors"), read_vgg16(vgg_file)
    assert all(torch.allclose(theirs[name], value, atol=1e-3) for name, value in ours.items())


def test_the_split_on_the_gpu_machine_is_the_split_here(packed: tuple[Path, str]) -> None:
    folder, _ = packed
    here, there = find_images([folder / "set"]), find_images([folder / "train" / "photographs"])
    assert len(here.validation) == len(there.validation) == 5
    assert [path.name for path in here.validation] == [path.name for path in there.validation]


def test_the_printed_commands_name_what_is_there(packed: tuple[Path, str]) -> None:
    folder, said = packed
    assert "--data photographs --vgg vgg16.safetensors" in said and "--minutes 7" in said and "--export" in said
    environment = os.environ | {"PYTHONPATH": str(folder / "train")}
    command = [sys.executable, "-c", "import sdcodec, sdcodec_cli.train; print(sdcodec.__file__)"]
    done = subprocess.run(command, cwd=folder / "train", env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(str(folder / "train"))


def test_parts_are_not_mixed_with_older_ones(packed: tuple[Path, str], vgg_file: Path) -> None:
    folder, _ = packed
    names = ("--data", str(folder / "set"), "--vgg", str(vgg_file), "--out", str(folder / "parts"))
    with pytest.raises(SystemExit, match="holds parts already"):
        pack_training.main([str(RECIPE), *names])
