"""Commands that die or lose their disk leave whole outputs or none.

The next run finishes their work.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors import SafetensorError

from sdcodec import temporaries
from sdcodec.errors import OutputError
from sdcodec.files import append_lines, atomic_write, check_outputs, replace_folder, write_whole
from sdcodec.temporaries import claimed, remove_abandoned, temporary_file, temporary_folder

ROOT = Path(__file__).parents[1]
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="operations are watched on Linux only")
LOCKS = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no locks on folders")
HOLDER = """
import sys, time
from sdcodec.temporaries import claimed, temporary_file, temporary_folder
from pathlib import Path
with temporary_file(sys.argv[1]) as file, temporary_folder(sys.argv[1]) as folder, claimed(Path(sys.argv[1])):
    (folder / "part").write_bytes(b"part")
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Start a process that holds a temporary file, a temporary folder and a claim."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


@LINUX
def test_encode_can_die_or_fail_at_operations_on_files():
    """The benchmark covers all operations and the other commands."""
    arguments = ["--commands", "encode --force", "--points", "2", "--seed", "4", "--faults", "kill,full,pair,cut"]
    command = [sys.executable, str(ROOT / "benchmarks" / "deaths.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| encode --force |" in done.stdout and "5 deaths, 0 faults found" in done.stdout


@LOCKS
def test_temporaries_of_a_killed_process_are_deleted_and_those_of_a_living_one_stay(tmp_path, holder):
    check_outputs([str(tmp_path / "x.sdc")])
    assert len(list(tmp_path.glob(".sdcodec-*.tmp"))) == 2
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    check_outputs([str(tmp_path / "x.sdc")])
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def deleted_once(monkeypatch):
    """Have another process delete what is locked first.

    Returns the paths that are locked.
    """
    lock = temporaries._lock
    paths = []

    def deleting(path, *, wait):
        descriptor = lock(path, wait=wait)
        paths.append(path)
        if len(paths) == 1:
            (os.rmdir if os.path.isdir(path) else os.unlink)(path)
        return descriptor

    monkeypatch.setattr(temporaries, "_lock", deleting)
    return paths


@LINUX
def test_a_temporary_that_another_process_deletes_before_its_lock_is_made_anew(tmp_path, deleted_once):
    before = len(os.listdir("/proc/self/fd"))
    with temporary_file(tmp_path) as path:
        assert path.exists() and str(path) == deleted_once[1] != deleted_once[0]
    assert len(os.listdir("/proc/self/fd")) == before


@LINUX
def test_a_claimed_folder_that_is_deleted_before_its_lock_is_made_anew(tmp_path, deleted_once):
    with claimed(tmp_path / "run"):
        assert (tmp_path / "run").is_dir() and len(deleted_once) == 2


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    refused = pytest.raises(OutputError, match=r"run: cannot be made \(.*\); choose another place")
    with refused, claimed(tmp_path / "file" / "run"):
        pass


@LOCKS
def test_a_folder_is_claimed_until_its_process_ends(tmp_path, holder):
    with pytest.raises(OutputError, match="another process works in this folder"), claimed(tmp_path):
        pass
    holder.kill()
    holder.wait()
    with claimed(tmp_path / "new" / "run"):
        assert (tmp_path / "new" / "run").is_dir()
    assert not (tmp_path / "new" / "run").exists()  # it stayed empty
    with claimed(tmp_path):
        pass


def test_old_temporaries_are_deleted_on_a_system_without_locks(tmp_path, monkeypatch):
    monkeypatch.setattr("sdcodec.temporaries.fcntl", None)
    new, old = tmp_path / ".sdcodec-1.tmp", tmp_path / ".sdcodec-2.tmp"
    for path, age in ((new, 60), (old, 100_000)):
        path.write_bytes(b"")
        os.utime(path, (time.time() - age,) * 2)
    remove_abandoned(tmp_path)
    assert list(tmp_path.iterdir()) == [new]
    with temporary_file(tmp_path) as file, temporary_folder(tmp_path) as folder:
        assert file.read_bytes() == b"" and folder.is_dir()
    assert list(tmp_path.iterdir()) == [new]


def test_a_result_takes_its_name_while_it_is_locked(tmp_path):
    atomic_write(tmp_path / "x", b"data")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").stat().st_mode & 0o600 == 0o600


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_library_that_fails_to_write_leaves_the_earlier_file(tmp_path, error):
    path = tmp_path / "weights"
    path.write_bytes(b"old")

    def write(temporary):
        temporary.write_bytes(b"half")
        raise error

    with pytest.raises(OutputError, match="weights: cannot be written, the disk is full"):
        write_whole(path, write)
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_other_errors_of_a_library_pass(tmp_path):
    def write(temporary):
        raise ValueError("a tensor of a wrong type")

    with pytest.raises(ValueError, match="wrong type"):
        write_whole(tmp_path / "weights", write)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("left", ["", "a,b\n1,2\n", "a,b\n1,2\n3", "a,"])
def test_lines_follow_the_last_whole_line(tmp_path, left):
    path = tmp_path / "log.csv"
    path.write_text(left)
    append_lines(path, "5,6\n", header="a,b\n")
    assert path.read_text() == ("a,b\n1,2\n" if "1,2" in left else "a,b\n") + "5,6\n"


def test_an_earlier_folder_stays_if_the_new_one_cannot_be_moved(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "file").write_bytes(b"old")
    with pytest.raises(OutputError):
        replace_folder(tmp_path / "missing", tmp_path / "old")
    assert (tmp_path / "old" / "file").read_bytes() == b"old"
