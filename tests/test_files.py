"""Places of results, and output that is written whole or not at all."""

from __future__ import annotations

import os
import sys

import pytest

from sdcodec.errors import OptionError, OutputError
from sdcodec.files import Job, atomic_write, plan


def test_one_input_to_a_file_a_folder_or_standard_output(tmp_path):
    assert plan(["a/photo.jpg"], "out.sdc", "sdc") == [Job("a/photo.jpg", "out.sdc")]
    assert plan(["a/photo.jpg"], str(tmp_path), "sdc") == [Job("a/photo.jpg", os.path.join(tmp_path, "photo.sdc"))]
    assert plan(["-"], "-", "sdc") == [Job("-", "-")]


def test_several_inputs_need_a_folder(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OptionError, match="folder"):
        plan(["a.png", "b.png"], str(tmp_path / "file"), "sdc")
    with pytest.raises(OptionError, match="folder"):
        plan(["a.png", "b.png"], "-", "sdc")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(OutputError, match="nowhere"):
        plan(["a.png"], str(tmp_path / "nowhere") + "/", "sdc")


def test_two_results_of_one_name_are_refused(tmp_path):
    with pytest.raises(OptionError, match="both"):
        plan(["a/x.png", "b/x.jpg"], str(tmp_path), "sdc")


def test_a_result_over_an_input_is_refused(tmp_path):
    with pytest.raises(OptionError, match="over an input"):
        plan([str(tmp_path / "x.png")], str(tmp_path / "x.png"), "png")


def test_existing_files_stay_without_force(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with pytest.raises(OutputError, match="--force"):
        atomic_write(path, b"new")
    assert path.read_bytes() == b"old"
    atomic_write(path, b"new", force=True)
    assert path.read_bytes() == b"new"


def test_nothing_half_written_stays_when_the_disk_is_full(tmp_path, monkeypatch):
    path = tmp_path / "x"
    path.write_bytes(b"old")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match="disk is full"):
        atomic_write(path, b"new", force=True)
    assert os.listdir(tmp_path) == ["x"]
    assert path.read_bytes() == b"old"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/dev/full is Linux's")
def test_a_full_device_is_reported():
    with pytest.raises(OutputError, match="disk is full"):
        atomic_write("/dev/full", b"data")
