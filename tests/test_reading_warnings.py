"""Warnings about images: SdcodecWarning in the library, one line of the command."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import pytest
from PIL import Image

import sdcodec
from sdcodec.errors import OptionError, SdcodecWarning
from sdcodec.pixels import read_picture
from sdcodec_cli.main import main


@pytest.fixture
def animation(tmp_path: Path) -> Path:
    """Return the path of a GIF with a red, a green and a blue frame."""
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / "three.gif", save_all=True, append_images=frames[1:])
    return tmp_path / "three.gif"


def test_a_warning_names_its_file_and_can_be_pickled() -> None:
    warning = SdcodecWarning("is odd", "a.png")
    assert str(warning) == "a.png: is odd"
    assert str(SdcodecWarning("is odd")) == "is odd"
    assert str(pickle.loads(pickle.dumps(warning))) == "a.png: is odd"
    assert sdcodec.SdcodecWarning is SdcodecWarning


def test_first_of_several_frames_is_read_with_a_warning(animation: Path) -> None:
    with pytest.warns(SdcodecWarning, match=r"three\.gif: has 3 frames; frame 0 is read"):
        picture = read_picture(animation)
    assert picture.rgb[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(("frame", "colour"), [(0, [255, 0, 0]), (1, [0, 255, 0]), (2, [0, 0, 255])])
def test_chosen_frame_is_read_without_a_warning(animation: Path, frame: int, colour: list[int]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_picture(animation, frame=frame).rgb[0, 0].tolist() == colour


def test_page_of_another_size(tmp_path: Path) -> None:
    pages = [Image.new("RGB", (16, 8), "red"), Image.new("RGB", (8, 24), "blue")]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    assert read_picture(tmp_path / "pages.tif", frame=1).rgb.shape == (24, 8, 3)


@pytest.mark.parametrize("frame", [3, -1])
def test_frame_that_does_not_exist_is_refused(animation: Path, frame: int) -> None:
    with pytest.raises(OptionError, match="the file has 3"):
        read_picture(animation, frame=frame)


class TestCommand:
    @pytest.fixture(autouse=True)
    def home(self, tmp_path: Path, random_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("SDCODEC_HOME", str(random_bundle.parent))
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)

    def run(self, *arguments: str) -> int:
        with pytest.raises(SystemExit) as ended:
            main(["encode", "--model", "random", "-o", "a.sdc", *arguments])
        return int(ended.value.code or 0)

    @pytest.mark.parametrize("more", [(), ("-v",)])
    def test_warning_is_one_line_and_no_failure(
        self, animation: Path, capfd: pytest.CaptureFixture[str], more: tuple[str, ...]
    ) -> None:
        assert self.run(animation.name, *more) == 0
        lines = capfd.readouterr().err.splitlines()
        assert len(lines) == 1
        assert lines[0].startswith("sdcodec: three.gif: warning: has 3 frames;")

    def test_frame_option(self, animation: Path, capfd: pytest.CaptureFixture[str]) -> None:
        assert self.run(animation.name, "--frame", "2") == 0
        assert capfd.readouterr().err == ""
        assert self.run(animation.name, "--frame", "3", "--force") == 2
        assert "the file has 3" in capfd.readouterr().err

    def test_allow_truncated_option(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        Image.new("RGB", (64, 64), "red").save(tmp_path / "whole.jpg")
        (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:-20])
        assert self.run("cut.jpg") == 1
        assert capfd.readouterr().err.startswith("sdcodec: cut.jpg: the file is cut short")
        assert not (tmp_path / "a.sdc").exists()
        assert self.run("cut.jpg", "--allow-truncated") == 0
        assert capfd.readouterr().err.startswith("sdcodec: cut.jpg: warning: the file is cut short")
