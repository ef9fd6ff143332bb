"""The command `sdcodec show`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageShow

from conftest import photograph
from sdcodec import Codec
from sdcodec_cli.main import main


@pytest.fixture
def file(tmp_path: Path, random_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("SDCODEC_HOME", str(random_bundle.parent))
    monkeypatch.setenv("DISPLAY", ":0")
    path = tmp_path / "a.sdc"
    path.write_bytes(Codec(random_bundle, device="cpu").encode(photograph(40, 60)).data)
    return str(path)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["show", *arguments])
    return int(end.value.code or 0)


def test_the_viewer_gets_the_image(
    file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[tuple[Image.Image, str]] = []

    class Viewer(ImageShow.Viewer):
        def show(self, image: Image.Image, **options: Any) -> int:
            seen.append((image, options["title"]))
            return 1

    monkeypatch.setattr(ImageShow, "_viewers", [Viewer()])
    assert run(file, "--scale", "1/4") == 0
    [(image, title)] = seen
    assert image.size == (15, 10) and title == file
    assert capsys.readouterr().out == f"{file}: 15 x 10\n"


def test_without_a_viewer_the_remedy_is_told(
    file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ImageShow, "_viewers", [])
    assert run(file) == 1
    assert "no program that shows images was found; install one" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="these always have a desktop")
def test_without_a_desktop_nothing_is_decoded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert run("is not even read.sdc") == 1
    assert capsys.readouterr().err == "sdcodec: no desktop to show images on; write them to files with sdcodec decode\n"
