"""Output that is written whole or not at all."""

from __future__ import annotations

import os
import sys

import pytest

from sdcodec.errors import OutputError
from sdcodec.files import atomic_write


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
