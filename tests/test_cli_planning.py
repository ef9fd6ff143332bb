"""Inputs and outputs of commands over many files: folders, trees, wildcards."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from sdcodec.errors import OptionError, OutputError
from sdcodec_cli import inputs
from sdcodec_cli.inputs import Found, expanded, find
from sdcodec_cli.planning import Job, Plan, plan

IMAGES = {"png", "jpg", "jpeg", "tif"}


def named(*names: str) -> list[Found]:
    return [Found(name) for name in names]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder `photos` with images, other files, hidden ones, and a subfolder."""
    monkeypatch.chdir(tmp_path)
    for name in ("b.JPG", "a.png", "c.Tif", "notes.txt", ".DS_Store", "._a.png", "old.sdc", "deep/er/d.jpeg"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "photos" / ".hidden").mkdir()
    (tmp_path / "photos" / ".hidden" / "h.png").write_bytes(b"")
    return tmp_path


def found(*arguments: str, recursive: bool = False, output: str | None = None) -> list[str]:
    return [Path(file.path).as_posix() for file in find(arguments, IMAGES, recursive=recursive, output=output)]


def test_a_folder_means_its_images_sorted(tree: Path) -> None:
    assert found("photos") == ["photos/a.png", "photos/b.JPG", "photos/c.Tif"]


def test_other_files_in_a_folder_are_left_alone_and_an_error_only_if_named(tree: Path) -> None:
    assert found("photos/notes.txt", "photos/._a.png") == ["photos/notes.txt", "photos/._a.png"]
    assert not {"photos/notes.txt", "photos/.DS_Store", "photos/._a.png"} & {*found("photos", recursive=True)}


def test_the_tree_of_a_folder_is_kept(tree: Path) -> None:
    files = find(["photos/"], IMAGES, recursive=True, output="out")
    planned = plan(files, "out", "sdc")
    assert [Path(job.target).as_posix() for job in planned.jobs] == [
        *("out/a.sdc", "out/b.sdc", "out/c.sdc", "out/deep/er/d.sdc")
    ]
    assert not os.path.exists("out")
    planned.make_folders()
    assert os.path.isdir("out/deep/er")


def test_outputs_inside_the_input_folder_are_not_inputs(tree: Path) -> None:
    (tree / "photos" / "results").mkdir()
    (tree / "photos" / "results" / "a.png").write_bytes(b"")
    assert "photos/results/a.png" in found("photos", recursive=True)
    assert "photos/results/a.png" not in found("photos", recursive=True, output="photos/results/")
    assert "photos/a.png" in found("photos", recursive=True, output="photos")


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_links_to_folders_are_not_followed(tree: Path) -> None:
    (tree / "photos" / "loop").symlink_to(tree / "photos")
    (tree / "photos" / "link.png").symlink_to(tree / "photos" / "a.png")
    assert len(found("photos", recursive=True)) == 5


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_cannot_be_read_is_an_error(tree: Path) -> None:
    (tree / "photos" / "deep").chmod(0)
    with pytest.raises(PermissionError):
        found("photos", recursive=True)
    (tree / "photos" / "deep").chmod(0o700)


def test_wildcards_are_expanded_where_the_shell_leaves_them(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tree / "photo[1].png").write_bytes(b"")
    (tree / "photo1.png").write_bytes(b"")

    def words(*names: str) -> list[str]:
        return [Path(name).as_posix() for name in expanded(None, None, names)]  # type: ignore[arg-type]

    monkeypatch.setattr(inputs, "SHELL_EXPANDS", True)
    assert words("photos/*.png") == ["photos/*.png"]
    monkeypatch.setattr(inputs, "SHELL_EXPANDS", False)
    assert words("photos/?.*", "-") == ["photos/a.png", "photos/b.JPG", "photos/c.Tif", "-"]
    assert words("photo[1].*", "photo[1].png") == ["photo[1].png", "photo[1].png"]
    assert words("none*.png") == ["none*.png"]


def test_one_input_to_a_file_a_folder_or_standard_output(tmp_path: Path) -> None:
    assert plan(named("a/photo.jpg"), "out.sdc", "sdc") == Plan((Job("a/photo.jpg", "out.sdc"),))
    inside = os.path.join(tmp_path, "photo.sdc")
    assert plan(named("a/photo.jpg"), str(tmp_path), "sdc").jobs == (Job("a/photo.jpg", inside),)
    assert plan(named("-"), "-", "sdc").jobs == (Job("-", "-"),)


def test_without_output_the_result_stands_beside_its_input() -> None:
    jobs = plan([Found("a/photo.jpg"), Found("b.x.png", "")], None, "sdc").jobs
    assert jobs == (Job("a/photo.jpg", os.path.join("a", "photo.sdc")), Job("b.x.png", "b.x.sdc"))
    with pytest.raises(OptionError, match="standard input has no name"):
        plan(named("-"), None, "sdc")


def test_folders_are_made_where_a_folder_is_meant(tmp_path: Path) -> None:
    new = str(tmp_path / "new")
    for files, output in ((named("a.png"), new + "/"), (named("a.png", "b.png"), new), ([Found("x/a.png", "")], new)):
        planned = plan(files, output, "sdc")
        assert [Path(folder) for folder in planned.new_folders] == [Path(new)]
    with pytest.raises(OutputError, match="does not exist"):
        plan(named("a.png"), str(tmp_path / "missing" / "x.sdc"), "sdc").check()
    assert not os.listdir(tmp_path)


def test_several_inputs_need_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for output in (str(tmp_path / "file"), str(tmp_path / "new.sdc"), "-"):
        with pytest.raises(OptionError, match="folder"):
            plan(named("a.png", "b.png"), output, "sdc")
    with pytest.raises(OptionError, match="is a file"):
        plan(named("a.png"), str(tmp_path / "file") + "/", "sdc")


def test_two_results_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"a/x.png and b/x.jpg would both be written to .*x.sdc; rename one"):
        plan(named("a/x.png", "b/x.jpg"), str(tmp_path), "sdc")
    with pytest.raises(OptionError, match="both"):
        plan(named("x.png", "x.jpg"), None, "sdc")


def test_an_input_that_is_given_twice_is_one_job(tree: Path) -> None:
    files = find(["photos", "photos/a.png", "./photos/a.png"], IMAGES, recursive=False, output=None)
    assert [Path(job.source).name for job in plan(files, None, "sdc").jobs] == ["a.png", "b.JPG", "c.Tif"]


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_a_result_over_an_input_is_refused(tmp_path: Path) -> None:
    for name in ("x.png", "y.png"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "link.sdc").symlink_to(tmp_path / "x.png")
    os.link(tmp_path / "x.png", tmp_path / "hard.sdc")
    for target in ("x.png", "link.sdc", "hard.sdc", "./x.png"):
        with pytest.raises(OptionError, match="over an input"):
            plan(named(str(tmp_path / "x.png")), os.path.join(tmp_path, target), "png")
    with pytest.raises(OptionError, match="over an input"):
        plan(named(str(tmp_path / "y.png"), str(tmp_path / "x.png")), None, "png")
