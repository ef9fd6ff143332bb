"""The command as people call it: outputs, pipes, names, checks before the work."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sdcodec
from sdcodec.container import Container
from sdcodec_cli.main import main

Run = Callable[..., tuple[str, str]]
OPTIONS = ("--model", "random", "--device", "cpu", "--no-progress")


def command(*arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run the command in a process of its own."""
    defaults: dict[str, Any] = {"capture_output": True, "check": False, "timeout": 120}
    return subprocess.run([sys.executable, "-m", "sdcodec_cli", *arguments], **(defaults | options))


@pytest.fixture
def no_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every attempt to encode or decode fail the test."""

    def encode(*_: object, **__: object) -> None:
        pytest.fail("an image was processed")

    monkeypatch.setattr(sdcodec.Codec, "encode", encode)
    monkeypatch.setattr(sdcodec.Codec, "decode", encode)


# Outputs are checked before the work


@pytest.mark.usefixtures("no_encoding")
def test_outputs_that_cannot_be_written_are_found_first(folder: Path, run: Run) -> None:
    (folder / "a_folder").mkdir()
    (folder / "out" / "b.sdc").mkdir()
    (folder / "a_link").symlink_to(folder / "missing" / "x.sdc")
    for arguments, message in (
        (("a.png", "-o", "missing/x.sdc"), "missing/x.sdc: the folder missing does not exist; make it first"),
        (("a.png", "-o", "x" * 300 + "/"), ": cannot be made (File name too long); choose another place"),
        (("a.png", "-o", "a.png/x.sdc"), "a.png/x.sdc: cannot be written (Not a directory)"),
        (("a.png", "b.png", "c.png", "-o", "out"), "out/b.sdc: is a folder; give a file name"),
        (("a.png", "-o", "a_link"), "a_link: the folder"),
        (("a.png", "-o", "x" * 300 + ".sdc"), "cannot be written (File name too long)"),
    ):
        for name in ("encode", "decode"):
            if name == "decode":
                arguments = tuple(argument.replace(".sdc", ".png") for argument in arguments)
                message = message.replace(".sdc", ".png")
                (folder / "out" / "b.png").mkdir(exist_ok=True)
            _, errors = run(name, *arguments, status=1)
            assert message in errors and errors.count("\n") == 1
    assert not [name for name in os.listdir(folder / "out") if name.startswith(".sdcodec")]


@pytest.mark.usefixtures("no_encoding")
def test_a_folder_without_permission_is_found_first(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open

    def refuse(path: Any, *arguments: Any, **options: Any) -> int:
        if str(path).startswith(str(folder / "out")):
            raise PermissionError(13, "Permission denied", path)
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)  # root may write everywhere
    _, errors = run("encode", "a.png", "b.png", "-o", "out", *OPTIONS, status=1)
    assert errors == "sdcodec: out/a.sdc: cannot be written (Permission denied); choose another place\n"


@pytest.mark.usefixtures("no_encoding")
@pytest.mark.parametrize("name", ["a.jpg", "a.PNG", "a.webp", "a.b.tiff", "a.heic", "a.jxl"])
def test_encoding_to_the_name_of_an_image_is_refused(folder: Path, run: Run, name: str) -> None:
    _, errors = run("encode", "a.png", "-o", name, status=2)
    assert f"{name}: encode writes .sdc data" in errors and f"name it {name.rpartition('.')[0]}.sdc" in errors


@pytest.mark.parametrize("name", ["x.sdc", "x", "x.bin", "a.v2", "x.sdc.part"])
def test_encoding_to_other_names(folder: Path, run: Run, name: str) -> None:
    run("encode", "a.png", "-o", name, *OPTIONS, status=0)
    assert (folder / name).read_bytes().startswith(b"\x89SDC")


@pytest.mark.usefixtures("no_encoding")
@pytest.mark.parametrize(
    "arguments",
    [
        ("-o", "x.gif"),
        ("-o", "x.sdc"),
        ("-o", "x.txt"),
        ("-o", "x.jpg", "--format", "png"),
        ("-o", "x.sdc", "--format", "png"),
    ],
)
def test_decoding_to_a_name_of_another_format_is_refused(folder: Path, run: Run, arguments: tuple[str, ...]) -> None:
    _, errors = run("decode", "a.sdc", *arguments, status=2)
    assert "choose" in errors and arguments[1] in errors


def test_decoding_to_names_that_fit_the_format(folder: Path, run: Run) -> None:
    run("encode", "a.png", "-o", "a.sdc", *OPTIONS, status=0)
    for name, chosen, kind in (("x.JPG", "jpeg", "JPEG"), ("y.tif", "tiff", "TIFF"), ("z", "webp", "WEBP")):
        run("decode", "a.sdc", "-o", name, "--format", chosen, status=0)
        with Image.open(name) as image:
            assert image.format == kind


@pytest.mark.parametrize("name", ["x.gif", "x", "missing/x.png"])
def test_compare_checks_its_output_first(folder: Path, run: Run, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdcodec_eval.comparison.compare", lambda *_: pytest.fail("an image was processed"))
    _, errors = run("compare", "a.png", "-o", name, "--codecs", "jpeg", status=1 if "/" in name else 2)
    assert name in errors


# Standard streams


@pytest.mark.skipif(os.name == "nt", reason="needs pipes of POSIX")
def test_a_reader_that_has_gone_is_no_failure_of_written_files(folder: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = command("encode", "a.png", "b.png", "-o", "out", *OPTIONS, capture_output=False, stdout=writing, stderr=-1)
    assert (done.returncode, done.stderr) == (0, b"")
    assert sorted(os.listdir("out")) == ["a.sdc", "b.sdc"]
    for arguments in (("info", "out/a.sdc"), ("verify", "out/a.sdc"), ("models", "list"), ("--help",)):
        done = command(*arguments, capture_output=False, stdout=writing, stderr=-1)
        assert (done.returncode, done.stderr) == (1, b"")
    os.close(writing)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_behind_standard_output_is_one_line(folder: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = command("encode", "a.png", "b.png", "-o", "out", *OPTIONS, capture_output=False, stdout=full, stderr=-1)
        assert done.returncode == 1 and done.stderr.count(b"standard output: cannot be written") == 1
        assert sorted(os.listdir("out")) == ["a.sdc", "b.sdc"]
        for arguments in (("info", "out/a.sdc"), ("models", "list"), ("decode", "out/a.sdc", "-o", "-")):
            done = command(*arguments, capture_output=False, stdout=full, stderr=-1)
            assert done.returncode == 1 and b"standard output: cannot be written" in done.stderr
            assert done.stderr.count(b"\n") == 1


@pytest.mark.skipif(os.name == "nt", reason="needs a shell of POSIX")
def test_closed_standard_streams(folder: Path) -> None:
    def closed(redirection: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        words = ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-m", "sdcodec_cli", *arguments]
        return subprocess.run(words, capture_output=True, check=False, timeout=120)

    assert closed("<&- >&- 2>&-", "encode", "a.png", "b.png", "-o", "out", *OPTIONS).returncode == 0
    assert closed("2>&-", "encode", "missing.png", "-o", "x.sdc", *OPTIONS).returncode == 1
    assert closed("2>&-", "encode").returncode == 2
    for redirection, arguments in (("<&-", ("verify", "-")), (">&-", ("decode", "out/a.sdc", "-o", "-"))):
        done = closed(redirection, *arguments)
        assert done.returncode == 1 and b"is closed; give a file\n" in done.stderr and done.stderr.count(b"\n") == 1


# Names


def test_control_characters_in_names_do_not_reach_the_terminal(folder: Path, run: Run) -> None:
    names = [
        "e\x1b[31mvil.png",
        "line\nbreak.png",
        "bell\x07.png",
        "c1\x9b.png",
        "right\u202eto left.png",
        "two  spaces.png",
    ]
    shown = [r"e\x1b[31mvil", r"line\nbreak", r"bell\x07", r"c1\x9b", r"right\u202eto left", "two  spaces"]
    for name in names:
        Image.new("RGB", (16, 16)).save(name)
    printed = "".join(run("encode", *names, "-o", "out", *OPTIONS, status=0))
    files = [str(Path("out", name).with_suffix(".sdc")) for name in names]
    (folder / "broken\x1b.sdc").write_bytes(b"?")
    for arguments, status in (
        (("encode", *names, "-o", "out", *OPTIONS), 1),
        (("encode", *names, "-o", "out", *OPTIONS, "--skip-existing"), 0),
        (("encode", names[0], "-o", "mis\x1bsing/x.sdc"), 1),
        (("encode", "mis\x1bsing.png", "-o", "x.sdc", *OPTIONS), 1),
        (("encode", "a.png", "-o", "x.sdc", "--model", "\x1bmodel"), 1),
        (("encode", "a.png", "-o", "\x1b.jpg"), 2),
        (("encode", "a.png", "-o", "x.sdc", "--mode", "\x1bmode"), 2),
        (("decode", *files, "-o", "out"), 0),
        (("info", *files, "broken\x1b.sdc"), 1),
        (("info", *files, "--json"), 0),
        (("verify", *files, "broken\x1b.sdc"), 1),
        (("train", "\x1b.toml"), 2),
        (("eval", "\x1b.png", "--out", "results"), 2),
        (("compare", "\x1b.png", "-o", "x.png"), 1),
        (("models", "show", "\x1bmodel"), 1),
    ):
        printed += "".join(run(*arguments, status=status))
    assert all(character.isprintable() or character == "\n" for character in printed)
    assert all(text in printed for text in shown)


# Verbose output


def test_psnr_is_that_of_the_visible_picture(folder: Path, run: Run) -> None:
    with Image.open("a.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    alpha = np.full(pixels.shape[:2], 255, np.uint8)
    alpha[:, :32] = 0
    hidden = np.random.default_rng(0).integers(0, 256, pixels.shape, np.uint8)
    Image.fromarray(np.dstack([np.where(alpha[:, :, None] > 0, pixels, hidden), alpha])).save("hidden.png")
    output, _ = run("encode", "hidden.png", "-o", "hidden.sdc", "-q", "80", "-v", *OPTIONS, status=0)
    decoded = np.asarray(sdcodec.decode("hidden.sdc", model=os.environ["SDCODEC_HOME"] + "/random", device="cpu"))
    errors = (decoded[:, 32:, :3].astype(float) - pixels[:, 32:]) ** 2
    expected = 10 * np.log10(255**2 / (errors.sum() / pixels.size))
    assert f"PSNR {expected:.2f} dB" in output


# Messages of libraries


def damaged_tiff(path: Path, mode: str, compression: str, start: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(buffer, "TIFF", compression=compression)
    data = bytearray(buffer.getvalue())
    data[start : start + 40] = b"\x55" * 40
    path.write_bytes(data)


def test_messages_of_libtiff_become_ours(folder: Path) -> None:
    damaged_tiff(folder / "refused.tif", "RGB", "tiff_adobe_deflate", 2000)
    damaged_tiff(folder / "read.tif", "1", "group4", 100)
    done = command("encode", "refused.tif", "read.tif", "-o", "out", *OPTIONS)
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 1 and len(lines) == 3
    assert lines[0].startswith("sdcodec: refused.tif: damaged or unsupported image") and "ZIPDecode" in lines[0]
    assert lines[1].startswith("sdcodec: read.tif: warning: a library reports: Fax4Decode")
    assert lines[2].startswith("sdcodec: 1 of 2 files failed, 1 written: 4096 pixels, ")


# Comparison


def test_compare_leaves_out_a_codec_that_fails_on_the_image(folder: Path, run: Run) -> None:
    (folder / "picky.py").write_text(
        "from sdcodec_eval.codecs.classic import Jpeg\n"
        "class Picky(Jpeg):\n"
        "    def encode(self, pixels, quality):\n"
        "        raise ValueError('too \\x1b wide')\n"
    )
    codecs = ("--codecs", "jpeg", "--codec", "picky=picky:Picky")
    output, errors = run("compare", "a.png", "-o", "sheet.png", "--bytes", "3500", *codecs, status=0)
    assert errors == "sdcodec: a.png: warning: picky is left out: too \\x1b wide\n"
    assert "jpeg" in output and "picky" not in output
    with Image.open("sheet.png") as sheet:
        assert sheet.width < 3 * 64
    _, errors = run("compare", "a.png", "-o", "none.png", "--codecs", "", *codecs[2:], status=1)
    assert errors == "sdcodec: a.png: picky: too \\x1b wide\n" and not (folder / "none.png").exists()


# verify


def test_verify(folder: Path, run: Run) -> None:
    for name in "abc":
        run("encode", f"{name}.png", "-o", f"{name}.sdc", *OPTIONS, status=0)
    data = (folder / "b.sdc").read_bytes()
    output, errors = run("verify", "a.sdc", "b.sdc", status=0)
    assert output.splitlines()[1] == f"b.sdc: OK, 64 x 48, {len(data)} bytes, model random" and not errors
    for position in range(len(data)):  # every single byte is under some check
        changed = bytearray(data)
        changed[position] ^= 0x10
        (folder / f"b{position}.sdc").write_bytes(changed)
    (folder / "cut.sdc").write_bytes(data[:-7])
    (folder / "nothing.sdc").write_bytes(b"")
    damaged = [f"b{position}.sdc" for position in range(len(data))] + ["cut.sdc", "nothing.sdc", "missing.sdc", "out"]
    output, errors = run("verify", "a.sdc", *damaged, "c.sdc", status=1)
    assert [line.split(": ")[0] for line in output.splitlines()] == ["a.sdc", "c.sdc"]
    assert [line.split(": ")[1] for line in errors.splitlines()] == damaged


def test_verify_needs_neither_the_model_nor_pytorch(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run("encode", "a.png", "-o", "a.sdc", *OPTIONS, status=0)
    fingerprint = Container.from_bytes((folder / "a.sdc").read_bytes()).header.fingerprint.hex()
    monkeypatch.setenv("SDCODEC_HOME", str(folder / "out"))
    output, _ = run("verify", "a.sdc", status=0)
    assert f"its model (fingerprint {fingerprint}) is not installed here" in output
    code = (
        "import sys; from sdcodec_cli.main import main\n"
        "try: main(['verify', '-'])\n"
        "except SystemExit as e: assert not e.code, e.code\n"
        "assert not {'torch', 'numpy', 'PIL'} & set(sys.modules)"
    )
    data = (folder / "a.sdc").read_bytes()
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True)
    assert done.stdout.startswith(b"standard input: OK, ")


def test_new_files_keep_the_permissions_of_the_user(folder: Path, run: Run) -> None:
    before = os.umask(0o027)
    try:
        run("encode", "a.png", "-o", "a.sdc", *OPTIONS, status=0)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat("a.sdc").st_mode) == 0o640


def test_waiting_threads_sleep_unless_the_user_says_otherwise(monkeypatch):
    for given, expected in ((None, "PASSIVE"), ("ACTIVE", "ACTIVE")):
        monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
        if given:
            monkeypatch.setenv("OMP_WAIT_POLICY", given)
        with pytest.raises(SystemExit):
            main(["--version"])
        assert os.environ["OMP_WAIT_POLICY"] == expected
