"""docs/models.md: every command on it works, with random weights for the hub's."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

import pipelines
import unet_pipelines
from conftest import photograph
from sdcodec_cli.main import cli

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
SOURCES = {  # what the page takes from the hub, or from a folder that was copied
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "sd1",
    "./stable-diffusion-v1-5": "sd1",
    "madebyollin/taesd": "taesd",
    "stabilityai/stable-diffusion-xl-base-1.0": "sdxl",
    "black-forest-labs/FLUX.1-schnell": "flux",
    "black-forest-labs/FLUX.2-klein-4B": "flux2",
    "mit-han-lab/dc-ae-f32c32-sana-1.0-diffusers": "dc",
}
ALONE = ("taesd", "dc")  # their repositories hold nothing but the autoencoder
QUICK = {"fit": ["--steps", "2", "--width", "4", "--blocks", "0", "--force", "--quiet"]}


def commands() -> list[list[str]]:
    lines = [line.strip() for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("    sdcodec ")]
    return [shlex.split(line)[1:] for line in lines]


def test_the_page_has_what_a_newcomer_needs():
    steps = [" ".join(command[:2]) for command in commands()]
    wanted = ["models add", "models list", "models show", "models fit", "models remove"]
    assert all(step in steps for step in wanted)
    assert [step.split()[0] for step in steps].count("encode") and any("--denoise" in command for command in commands())
    assert {command[command.index("--from") + 1] for command in commands() if "--from" in command} == set(SOURCES)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Make a working folder with photographs, and folders with the page's names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SDCODEC_HOME", str(tmp_path / "home"))
    Image.fromarray(photograph(128, 160)).save("photo.jpg")
    Path("photos").mkdir()
    for seed in range(3):
        Image.fromarray(photograph(256, 272, seed)).save(f"photos/{seed}.png")
    for source, family in SOURCES.items():
        pipelines.autoencoder_folder(family, Path(source) / ("" if family in ALONE else "vae"))
    unet_pipelines.save_pipeline("sd15", Path("stable-diffusion-v1-5/stable-diffusion-v1-5"), channels=4)
    return tmp_path


def test_every_command_works(folder):
    for command in commands():
        extra = QUICK.get(command[1], []) if command[0] == "models" else ["--device", "cpu"]
        result = CliRunner().invoke(cli, [*command, *extra])
        assert result.exit_code == 0, (command, result.output, result.exception)
    assert Path("photo.sdc").stat().st_size <= 5000
    assert Image.open("photo.png").size == Image.open("cleaner.png").size == (160, 128)
    assert sorted(path.name for path in (folder / "home").iterdir()) == [
        "copied",
        "dcae",
        "flux",
        "flux2",
        "sdxl",
        "taesd",
    ]
