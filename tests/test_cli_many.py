"""The commands over many files: processes, interruption, summary, times, dry runs."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import sdcodec

Run = Callable[..., tuple[str, str]]
OPTIONS = ("--model", "random", "--device", "cpu", "--no-progress")


@pytest.fixture
def photos(folder: Path) -> Path:
    """Move the images into `photos`, one of them into a subfolder."""
    (folder / "photos" / "deep").mkdir(parents=True)
    for name in ("a.png", "b.png", "bad.png"):
        shutil.move(name, folder / "photos" / name)
    shutil.move("c.png", folder / "photos" / "deep" / "C.PNG")
    return folder / "photos"


def test_workers_give_the_same_bytes_in_the_same_order(photos: Path, run: Run) -> None:
    arguments = ("encode", "photos", "--recursive", *OPTIONS, "--effort", "4", "--bytes", "1500")
    one = run(*arguments, "-o", "one", "--workers", "1", status=1)
    two = run(*arguments, "-o", "two", "--workers", "2", status=1)
    for name in ("a.sdc", "b.sdc", "deep/C.sdc"):
        assert Path("one", name).read_bytes() == Path("two", name).read_bytes()
    names = [line.partition(":")[0] for line in two[0].splitlines()]
    assert [Path(name).as_posix() for name in names] == ["two/a.sdc", "two/b.sdc", "two/deep/C.sdc"]
    for _, errors in (one, two):
        first, last = errors.splitlines()
        assert first.startswith(f"sdcodec: {Path('photos', 'bad.png')}: not an image")
        assert last.startswith("sdcodec: 1 of 4 files failed, 3 written: ")


@pytest.mark.skipif(os.name == "nt", reason="needs signals of POSIX")
def test_interruption_ends_everything_at_once(folder: Path) -> None:
    with Image.open("a.png") as image:
        image.resize((1600, 1200)).save("large.png")
    for index in range(8):
        os.link("large.png", f"large{index}.png")
    names = [f"large{index}.png" for index in range(8)]
    words = [sys.executable, "-m", "sdcodec_cli", "encode", "a.png", *names, "-o", "new/"]
    options = ["--workers", "2", "--effort", "9", *OPTIONS]
    with subprocess.Popen([*words, *options], stdout=-1, stderr=-1, start_new_session=True) as process:
        assert process.stdout and process.stdout.readline().startswith(b"new/a.sdc")  # the others are in work
        os.killpg(process.pid, signal.SIGINT)  # as the terminal does it
        start = time.monotonic()
        try:
            errors = process.communicate(timeout=60)[1]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        assert time.monotonic() - start < 10  # two seconds, where nothing else runs
    assert process.returncode == 130 and errors.strip() == b"sdcodec: interrupted"
    assert os.listdir("new") == ["a.sdc"]
    with pytest.raises(ProcessLookupError):
        for _ in range(100):
            os.killpg(process.pid, 0)
            time.sleep(0.05)


def test_the_summary(photos: Path, run: Run) -> None:
    (photos / "bad.png").unlink()
    read = sum(path.stat().st_size for path in photos.rglob("*.*"))
    _, errors = run("encode", "photos", "-r", "-o", "out", *OPTIONS, status=0)
    written = sum(path.stat().st_size for path in Path("out").rglob("*.sdc"))
    ratio = f"{read / written:.3g}"
    assert re.fullmatch(
        rf"sdcodec: 3 files written: 9216 pixels, {read} -> {written} bytes \({ratio} : 1\), [\d.]+ s\n", errors
    )
    assert run("encode", "photos", "-r", "-o", "out", *OPTIONS, "--force", "--quiet", status=0) == ("", "")
    _, errors = run("decode", "out", "-r", *OPTIONS[2:], status=0)
    assert f"{written} -> " in errors and "(1 : " in errors


def test_without_output_files_stand_beside_their_inputs(photos: Path, run: Run) -> None:
    output, _ = run("encode", "photos/a.png", *OPTIONS, status=0)
    assert output.startswith(os.path.join("photos", "a.sdc: ")) and (photos / "a.sdc").exists()
    run("decode", "photos/a.sdc", "--format", "webp", status=0)
    with Image.open("photos/a.webp") as image:
        assert image.format == "WEBP"
    run("encode", "nowhere/x.png", *OPTIONS, status=1)


@pytest.mark.usefixtures("photos")
def test_everything_skipped_is_success(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run("encode", "photos/a.png", "photos/b.png", "-o", "out", *OPTIONS, status=0)
    monkeypatch.setattr(sdcodec, "Codec", lambda *_, **__: pytest.fail("a model was loaded"))
    output, errors = run("encode", "photos/a.png", "photos/b.png", "-o", "out", "--skip-existing", status=0)
    assert output.count("exists, skipped") == 2 and errors == "sdcodec: 2 skipped, 0 written\n"
    _, errors = run("encode", "out", status=0)
    assert errors == "sdcodec: out: warning: no files to read; --recursive reads subfolders\n"
    _, errors = run("encode", "missing/", status=1)
    assert errors == "sdcodec: missing/: no such folder\n"


@pytest.mark.usefixtures("photos")
def test_a_dry_run_shows_files_and_leaves_everything_as_it_is(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sdcodec, "Codec", lambda *_, **__: pytest.fail("a model was loaded"))
    Path("photos/b.sdc").write_bytes(b"")
    output, errors = run("encode", "photos", "-r", "--dry-run", status=1)
    pairs = [tuple(Path(name).as_posix() for name in line.split(" -> ")) for line in output.splitlines()]
    assert pairs == [
        ("photos/a.png", "photos/a.sdc"),
        ("photos/bad.png", "photos/bad.sdc"),
        ("photos/deep/C.PNG", "photos/deep/C.sdc"),
    ]
    assert "b.sdc: exists already; give --force" in errors
    run("encode", "photos", "-r", "-o", "new", "--dry-run", status=0)
    assert not os.path.exists("new") and not list(Path("photos").rglob("a.sdc"))


def test_times_are_kept_if_asked_for(photos: Path, run: Run) -> None:
    os.utime("photos/a.png", (1_500_000_000, 1_500_000_000))
    run("encode", "photos/a.png", "-o", "kept.sdc", "--keep-times", *OPTIONS, status=0)
    run("encode", "photos/a.png", "-o", "new.sdc", *OPTIONS, status=0)
    assert os.stat("kept.sdc").st_mtime == 1_500_000_000 < os.stat("new.sdc").st_mtime


def test_files_larger_than_their_input(folder: Path, run: Run) -> None:
    Image.new("RGB", (64, 64)).save("flat.png")
    _, errors = run("encode", "a.png", "flat.png", "-o", "out", "-q", "100", *OPTIONS, status=0)
    assert ", 1 larger than the input, " in errors
    output, errors = run(
        *("encode", "a.png", "flat.png", "-o", "out", "-q", "100", "--skip-larger", "--force", *OPTIONS), status=0
    )
    assert "flat.sdc" in output and "larger than its input, not written" in output
    assert "1 skipped, 1 written" in errors


@pytest.mark.usefixtures("photos")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-",), "standard input has no name"),
        (("photos", "-o", "-"), "do not fit into one standard output"),
        (("photos", "-o", "x.sdc"), "several inputs need a folder"),
        (("photos/a.png", "photos/deep/a.png", "-o", "out"), "would both be written to"),
        (("photos", "-o", "out", "--workers", "0"), "--workers"),
    ],
)
def test_contradictions_are_wrong_usage(run: Run, arguments: tuple[str, ...], message: str) -> None:
    _, errors = run("encode", *arguments, status=2)
    assert message in " ".join(errors.split())
