"""`sdcodec models` (one file: its folders are slow to make)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from click.testing import CliRunner

import pipelines
import sdcodec
from conftest import photograph
from sdcodec.bundles import importing, origin, store
from sdcodec.errors import BundleError, OptionError, SdcodecError
from sdcodec_cli.main import cli

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def invoke(*arguments: str, status: int = 0) -> str:
    """Run the command in this process; return its output or its line of error."""
    result = CliRunner().invoke(cli, list(arguments))
    if isinstance(result.exception, SdcodecError):  # what main() turns into a line and a status
        assert status == (2 if isinstance(result.exception, OptionError) else 1)
        assert "\n" not in str(result.exception)
        return str(result.exception)
    assert result.exit_code == status, result.output
    return result.output


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory):
    """Write a folder of Stable Diffusion 1.x, with a text encoder and a tokenizer."""
    return pipelines.pipeline_folder(tmp_path_factory.mktemp("pipelines") / "sd15")


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """Write an autoencoder that is quick to add."""
    return pipelines.autoencoder_folder("taesd", tmp_path_factory.mktemp("sources") / "taesd")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SDCODEC_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="session")
def added(pipeline, tmp_path_factory):
    """Make a home with the pipeline's model in it."""
    home = tmp_path_factory.mktemp("added")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SDCODEC_HOME", str(home))
        told = invoke("models", "add", "sd15", "--from", str(pipeline))
    assert "4 channels at 1/8" in told and "CreativeML Open RAIL-M" in told
    return home


# Contents of a model


def test_nothing_of_the_text_encoder_is_left(added):
    assert sorted(path.name for path in (added / "sd15").iterdir()) == [
        "LICENCE.txt",
        "autoencoder.safetensors",
        "bundle.json",
        "prior.safetensors",
    ]
    from safetensors.torch import load_file

    names = load_file(added / "sd15" / "autoencoder.safetensors")
    assert not [name for name in names if "text" in name or "token" in name or "embed" in name]
    assert "text" not in (added / "sd15" / "bundle.json").read_text().lower().replace("licence.txt", "")


def test_the_origin_and_the_licence_are_recorded(added, pipeline):
    described = json.loads((added / "sd15" / "bundle.json").read_text())["description"]
    assert described["origin"] == str(pipeline)
    assert described["licence"] == "CreativeML Open RAIL-M"
    assert described["made_with"]["diffusers"]
    assert (added / "sd15" / "LICENCE.txt").read_text() == "The licence's text\n"


def test_it_codes_from_the_command(added, tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SDCODEC_HOME", str(added))
    Image.fromarray(photograph(64, 96)).save("a.png")
    invoke("encode", "a.png", "-o", "a.sdc", "--model", "sd15", "--bytes", "200")
    assert Path("a.sdc").stat().st_size <= 200
    assert json.loads(invoke("info", "a.sdc", "--json"))["model"] == "sd15"
    invoke("decode", "a.sdc", "-o", "b.png")
    assert Image.open("b.png").size == (96, 64)


def test_an_autoencoder_may_lie_in_any_subfolder(home, source, tmp_path):
    shutil.copytree(source, tmp_path / "outer" / "inner")
    assert "no weights" not in invoke("models", "add", "a", "--from", str(tmp_path / "outer"), "--subfolder", "inner")
    assert "config.json" in invoke("models", "add", "b", "--from", str(tmp_path / "outer"), status=1)


# List, show, remove


def test_models_are_listed_and_shown(added, monkeypatch):
    monkeypatch.setenv("SDCODEC_HOME", str(added))
    listed = invoke("models", "list")
    shipped = [bundle.name for bundle in store.installed() if store.is_shipped(bundle)]
    assert [line.split()[0] for line in listed.splitlines()] == [*shipped, "sd15"] and "base" in shipped
    assert "4 channels at 1/8, AutoencoderKL, prior adaptive" in listed and "CreativeML Open RAIL-M" in listed
    rows = [json.loads(line) for line in invoke("models", "list", "--json").splitlines()]
    assert rows[-1]["unet"] is False and rows[-1]["folder"] == str(added / "sd15")
    shown = invoke("models", "show", "sd15")
    assert rows[-1]["fingerprints"][0] in shown and "licence" in shown
    assert json.loads(invoke("models", "show", "base", "--json"))["description"]["licence"] == "Apache-2.0"


def test_a_broken_model_does_not_keep_others_from_being_listed(added, home):
    shutil.copytree(added, home)
    (home / "sd15" / "bundle.json").write_text("{}")
    assert "base" in invoke("models", "list")
    invoke("models", "remove", "sd15", "--yes")
    assert not (home / "sd15").exists()


def test_only_added_models_are_removed_and_only_when_meant(added, home):
    shutil.copytree(added, home)
    invoke("models", "remove", "sd15", status=2)  # nobody is there to be asked
    assert (home / "sd15").is_dir()
    assert "added models are: sd15" in invoke("models", "remove", "base", "--yes", status=1)
    assert "was not added" in invoke("models", "remove", "../home", "--yes", status=1)
    invoke("models", "remove", "sd15", "--yes")
    assert not (home / "sd15").exists()
    assert "added models are: none" in invoke("models", "remove", "sd15", "--yes", status=1)


def test_listing_does_without_pytorch(added, monkeypatch):
    import subprocess
    import sys

    code = (
        "import sys; from sdcodec_cli.main import main\n"
        "try: main(['models', 'list'])\n"
        "except SystemExit as e: assert not e.code, e.code\n"
        "assert 'torch' not in sys.modules and 'diffusers' not in sys.modules"
    )
    monkeypatch.setenv("SDCODEC_HOME", str(added))
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


# Names


def test_names_are_checked_before_anything_is_read(home, source):
    for name in ("", "a/b", "..", ".hidden", "a b", "-x", "base"):
        with pytest.raises(OptionError):
            importing.add(name, "nowhere")
    assert not home.exists()


def test_an_existing_model_is_kept_unless_forced(added, home, source):
    shutil.copytree(added, home)
    assert "--force" in invoke("models", "add", "sd15", "--from", str(source), status=1)
    invoke("models", "add", "sd15", "--from", str(source), "--force")
    assert json.loads(invoke("models", "show", "sd15", "--json"))["family"] == "AutoencoderTiny"


# Refusals


def test_an_unknown_class_lists_those_that_are_known(home, tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKLWan"}')
    told = invoke("models", "add", "x", "--from", str(tmp_path), status=1)
    assert "'AutoencoderKLWan'" in told
    assert all(name in told for name in ("AutoencoderKL,", "AutoencoderTiny", "AutoencoderDC", "AutoencoderKLFlux2"))


def test_pickled_weights_are_not_loaded(home, source, tmp_path):
    (tmp_path / "config.json").write_text((source / "config.json").read_text())
    torch.save({}, tmp_path / "diffusion_pytorch_model.bin")
    assert "pickled" in invoke("models", "add", "x", "--from", str(tmp_path), status=1)


def test_missing_and_damaged_weights_are_named(home, source, tmp_path):
    folder = tmp_path / "a"
    shutil.copytree(source, folder)
    weights = folder / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    assert "damaged" in invoke("models", "add", "x", "--from", str(folder), status=1)
    weights.unlink()
    assert "no weights" in invoke("models", "add", "x", "--from", str(folder), status=1)
    (folder / "config.json").write_text("{")
    assert "not valid JSON" in invoke("models", "add", "x", "--from", str(folder), status=1)
    assert not list(home.glob("*"))


def test_weights_of_another_network_are_refused(home, source, tmp_path):
    folder = tmp_path / "a"
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_encoder_blocks": [1, 1, 1, 2]}))
    assert "do not fit" in invoke("models", "add", "x", "--from", str(folder), status=1)
    assert not list(home.glob("*"))


def test_a_scale_other_than_declared_is_refused(home, tmp_path):
    """A decoder enlarges three times, and an encoder contradicts its configuration."""
    import diffusers

    arguments = pipelines.FAMILIES["taesd"][1]
    diffusers.AutoencoderTiny(**arguments, upsampling_scaling_factor=3).save_pretrained(tmp_path / "up")
    told = invoke("models", "add", "x", "--from", str(tmp_path / "up"), status=1)
    assert "432 x 432 pixels of 128 x 128" in told
    diffusers.AutoencoderTiny(
        **{**arguments, "encoder_block_out_channels": (8,), "num_encoder_blocks": (1,)}
    ).save_pretrained(tmp_path / "none")
    assert "pixels a latent" in invoke("models", "add", "x", "--from", str(tmp_path / "none"), status=1)

    class Lying:
        factor, channels, margin = 8, 4, None

        def encode(self, images):
            return torch.zeros(1, 4, images.shape[2] // 16, images.shape[3] // 16)

        def decode(self, latents, quality_index):
            return torch.zeros(1, 3, 128, 128)

    with pytest.raises(BundleError, match=r"declares 4 channels at 1/8, but 128 pixels became 4 channels of 8 x 8"):
        importing.check_geometry(Lying())


def test_what_is_no_folder_is_explained(home, source, tmp_path):
    for name in ("./nowhere", "a/b/c", "/nowhere/at/all"):
        assert "no such folder" in invoke("models", "add", "x", "--from", name, status=1)
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    assert "single file" in invoke("models", "add", "x", "--from", str(file), status=1)
    assert "no revisions" in invoke("models", "add", "x", "--from", str(source), "--revision", "main", status=1)


def test_float16_that_cannot_hold_the_weights_is_refused(home, tmp_path):
    network = pipelines.network("taesd")
    network.encoder.layers[0].weight.data.fill_(1e6)
    network.save_pretrained(tmp_path / "large")
    told = invoke("models", "add", "x", "--from", str(tmp_path / "large"), "--dtype", "float16", status=1)
    assert "exceeds float16" in told and "--dtype bfloat16" in told


def test_a_missing_package_is_named_with_its_remedy(home, source, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert "pip install 'sdcodec[sd]'" in invoke("models", "add", "x", "--from", str(source), status=1)


# The hub

FILES = [
    "README.md",
    "LICENSE",
    "model_index.json",
    "v1-5.ckpt",
    "v1-5.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.bin",
    "vae/diffusion_pytorch_model.fp16.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "unet/config.json",
    "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
    "unet/diffusion_pytorch_model-00002-of-00002.safetensors",
    "unet/diffusion_pytorch_model.safetensors.index.json",
    "unet/diffusion_pytorch_model.bin",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "text_encoder/model.fp16.safetensors",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "safety_checker/model.safetensors",
]


def test_only_what_is_needed_is_fetched_and_never_a_pickle():
    common = ["LICENSE", "README.md", "model_index.json"]
    assert origin.wanted_files(FILES, unet=False, half=False) == [
        *common,
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    assert "vae/diffusion_pytorch_model.fp16.safetensors" in origin.wanted_files(FILES, unet=False, half=True)
    everything = origin.wanted_files(FILES, unet=True, half=False)
    assert not [name for name in everything if name.endswith((".bin", ".ckpt")) or "safety" in name or "fp16" in name]
    assert {name for name in FILES if name.startswith(("tokenizer", "scheduler", "unet/diffusion_pytorch_model-"))} <= {
        *everything
    }
    alone = ["config.json", "diffusion_pytorch_model.safetensors", "taesd.safetensors", "other.json"]
    assert origin.wanted_files(alone, unet=False, half=False) == alone[:2]


class FakeApi:
    """Stand-in for the hub's information about a repository."""

    files: ClassVar[list[str]] = ["README.md", "vae/config.json", "vae/diffusion_pytorch_model.safetensors"]

    def model_info(self, name, revision=None):
        return SimpleNamespace(sha=COMMIT, siblings=[SimpleNamespace(rfilename=file) for file in self.files])


@pytest.fixture
def snapshot(pipeline, tmp_path, monkeypatch):
    """Fill the hub's cache with the pipeline; no server answers."""
    import huggingface_hub

    cache = tmp_path / "cache"
    folder = cache / "models--someone--sd15"
    shutil.copytree(pipeline, folder / "snapshots" / COMMIT)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return folder / "snapshots" / COMMIT


def test_the_cache_is_enough_where_the_hub_is_switched_off(home, snapshot):
    found = origin.find("someone/sd15")
    assert found.folder == snapshot and found.revision == COMMIT and found.licence == "CreativeML Open RAIL-M"
    invoke("models", "add", "cached", "--from", "someone/sd15")
    shown = invoke("models", "show", "cached")
    assert COMMIT in shown and "someone/sd15" in shown


def test_a_hub_that_is_switched_off_says_how_to_point_at_a_folder(home, snapshot):
    told = invoke("models", "add", "x", "--from", "someone/else", status=1)
    assert "switched off" in told and "--from FOLDER" in told


def test_a_hub_that_cannot_be_reached_says_how_to_point_at_a_folder(home, snapshot, monkeypatch):
    import huggingface_hub

    class Unreachable:
        def model_info(self, name, revision=None):
            raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub, "HfApi", Unreachable)
    told = invoke("models", "add", "x", "--from", "someone/else", status=1)
    assert "cannot be reached" in told and "--from FOLDER" in told
    assert origin.find("someone/sd15").folder == snapshot  # what was fetched before is still there


def test_the_revision_is_resolved_to_a_commit_and_pinned(home, snapshot, monkeypatch):
    import huggingface_hub

    asked = {}

    def download(name, *, revision, allow_patterns):
        asked.update(name=name, revision=revision, allow_patterns=allow_patterns)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "HfApi", FakeApi)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert origin.find("someone/sd15", revision="v1").revision == COMMIT
    assert asked == {"name": "someone/sd15", "revision": COMMIT, "allow_patterns": FakeApi.files}


def test_a_repository_of_pickles_is_refused_before_it_is_fetched(home, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(FakeApi, "files", ["vae/config.json", "vae/diffusion_pytorch_model.bin"])
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeApi)
    assert "pickled" in invoke("models", "add", "x", "--from", "someone/old", status=1)


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: openrail++\n---\n", "CreativeML Open RAIL++-M"),
        (
            "---\nlicense: other\nlicense_name: flux-1-dev-non-commercial-license\n---\n",
            "flux-1-dev-non-commercial-license",
        ),
        ("# no front matter\n", "not stated"),
        ("---\n: : broken\n---\n", "not stated"),
    ],
)
def test_licences_are_read_from_the_model_card(tmp_path, card, licence):
    (tmp_path / "README.md").write_text(card)
    assert origin.find(str(tmp_path)).licence.startswith(licence)


@pytest.mark.parametrize(
    "command", [["models"], ["models", "add"], ["models", "list"], ["models", "show"], ["models", "remove"]]
)
def test_help_fits_80_columns(command):
    assert max(map(len, invoke(*command, "--help").splitlines())) <= 80


def test_the_library_finds_it_by_name(added, monkeypatch):
    monkeypatch.setenv("SDCODEC_HOME", str(added))
    data = sdcodec.encode(photograph(64, 64), model="sd15", quality=30, device="cpu")
    assert sdcodec.decode(data, device="cpu").size == (64, 64)
