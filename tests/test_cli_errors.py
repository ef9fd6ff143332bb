"""Errors of the command: one line for whatever a codec, a disk or a device raises."""

from __future__ import annotations

import builtins
import errno
import io
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import sdcodec
from sdcodec import errors
from sdcodec_cli.messages import TRACEBACK, explain

Run = Callable[..., tuple[str, str]]
OPTIONS = ("--model", "random", "--device", "cpu", "--no-progress")
NUMBERS = (
    *("EACCES", "EBADF", "EBUSY", "EDQUOT", "EEXIST", "EFBIG", "EINVAL", "EIO", "EISDIR", "ELOOP", "EMFILE", "EMLINK"),
    *("ENAMETOOLONG", "ENFILE", "ENODEV", "ENOENT", "ENOLCK", "ENOMEM", "ENOSPC", "ENOTDIR", "ENXIO", "EPERM", "EPIPE"),
    *("EROFS", "ESTALE", "ETIMEDOUT", "ETXTBSY", "ECONNRESET", "EAGAIN", "EINTR"),
)
OS_ERRORS: list[Exception] = [
    *(OSError(getattr(errno, name), os.strerror(getattr(errno, name))) for name in NUMBERS if hasattr(errno, name)),
    OSError(errno.EIO, "Input/output error", "another\x1b.file"),
    OSError("decoder error -2"),
    OSError(),
    BrokenPipeError(),
    io.UnsupportedOperation("seek"),
]
OTHERS: list[Exception] = [
    MemoryError(),
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ..."),
    RuntimeError("CUDA error: device-side assert triggered\nCompile with TORCH_USE_CUDA_DSA\n"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
    NotImplementedError("Could not run 'aten::x' with arguments from the 'MPS' backend."),
    RecursionError("maximum recursion depth exceeded"),
    struct.error("unpack requires a buffer of 4 bytes"),
    zlib.error("Error -3 while decompressing data"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    Image.DecompressionBombError("Image size exceeds limit"),
    EOFError("no more"),
    StopIteration(),
    ExceptionGroup("several", [ValueError("one")]),
    ImportError("libcudart.so.12: cannot open shared object file"),
    *(kind() for kind in (ValueError, AssertionError, ArithmeticError, AttributeError, TimeoutError, Exception)),
    *(kind("a\x1b[31m\nb") for kind in (TypeError, KeyError, IndexError, OverflowError, SyntaxError, BufferError)),
]
OWN: list[Exception] = [
    kind(f"a problem of {kind.__name__}; a remedy")
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.SdcodecError)
]
ALL = [*OS_ERRORS, *OTHERS, *OWN]


def is_one_line(printed: str) -> bool:
    return (
        printed.startswith("sdcodec: ")
        and printed.count("\n") == 1
        and len(printed.strip()) > len("sdcodec: ")
        and all(character.isprintable() for character in printed[:-1])
    )


def raising(error: BaseException) -> Callable[..., None]:
    """Return a function that raises an error, whatever its arguments."""

    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def status_of(error: Exception) -> int:
    return 2 if isinstance(error, errors.OptionError) else 1


@pytest.mark.parametrize("error", ALL, ids=repr)
def test_a_batch_goes_on_after_any_error_of_a_codec(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    encode = sdcodec.Codec.encode

    def broken(self: sdcodec.Codec, image: Any, **options: Any) -> sdcodec.Encoded:
        if image == "b.png":
            raise error
        return encode(self, image, **options)

    monkeypatch.setattr(sdcodec.Codec, "encode", broken)
    _, printed = run("encode", "a.png", "b.png", "c.png", "-o", "out", *OPTIONS, status=status_of(error))
    first, last = printed.splitlines(keepends=True)
    assert is_one_line(first) and "b.png" in first and last.startswith("sdcodec: 1 of 3 files failed, 2 written: ")
    assert sorted(os.listdir("out")) == ["a.sdc", "c.sdc"]
    monkeypatch.setattr(sdcodec.Codec, "decode", raising(error))
    _, printed = run("decode", "out/a.sdc", "-o", "again.png", status=status_of(error))
    assert is_one_line(printed) and "out/a.sdc" in printed and not os.path.exists("again.png")


COMMANDS: dict[str, tuple[str, ...]] = {
    "sdcodec.bundles.shared.load": ("encode", "a.png", "-o", "x.sdc", *OPTIONS),
    "sdcodec.hardware.device": ("encode", "a.png", "-o", "x.sdc", *OPTIONS),
    "sdcodec.codec.read_picture": ("encode", "a.png", "-o", "x.sdc", *OPTIONS),
    "sdcodec.grid.code": ("encode", "a.png", "-o", "x.sdc", *OPTIONS),
    "sdcodec.grid.decode": ("decode", "a.sdc", "-o", "x.png"),
    "sdcodec.container.Container.from_bytes": ("decode", "a.sdc", "-o", "x.png"),
    "sdcodec.pixels.to_image_file": ("decode", "a.sdc", "-o", "x.png"),
    "sdcodec_cli.processing.write_bytes": ("decode", "a.sdc", "-o", "x.png"),
    "sdcodec.bundles.store.by_fingerprint": ("info", "a.sdc"),
    "sdcodec_cli.inputs.read_bytes": ("info", "a.sdc"),
    "sdcodec_cli.verify.parsed": ("verify", "a.sdc"),
    "sdcodec_eval.comparison.compare": ("compare", "a.png", "-o", "x.png"),
    "sdcodec_eval.run.evaluate": ("eval", "a.png", "--out", "results"),
    "sdcodec.bundles.store.installed": ("models", "list"),
    "sdcodec.bundles.store.find": ("models", "show", "random"),
    "sdcodec.bundles.importing.add": ("models", "add", "new", "--from", "somewhere"),
    "sdcodec.bundles.store.remove": ("models", "remove", "random", "--yes"),
    "sdcodec.training.prior_fit.fit_prior": ("models", "fit", "random", "--images", "out"),
    "sdcodec.training.run.train": ("train", "recipe.toml"),
}


@pytest.fixture
def broken(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, BaseException], None]:
    """Return a function that lets a part of the program raise an error."""
    run("encode", "a.png", "-o", "a.sdc", *OPTIONS, status=0)
    (folder / "recipe.toml").write_text("")
    for name in ("sdcodec.training.prior_fit", "sdcodec.training.run", "sdcodec_eval.run", "sdcodec_eval.comparison"):
        __import__(name)

    return lambda target, error: monkeypatch.setattr(target, raising(error))


@pytest.mark.parametrize("target", COMMANDS)
def test_any_error_anywhere_is_one_line(run: Run, broken: Callable[[str, BaseException], None], target: str) -> None:
    for error in ALL:
        broken(target, error)
        _, printed = run(
            *COMMANDS[target], status=2 if isinstance(error, errors.OptionError) and not per_file(target) else 1
        )
        assert is_one_line(printed), (error, printed)
    broken(target, KeyboardInterrupt())
    _, printed = run(*COMMANDS[target], status=130)
    assert printed.strip() == "sdcodec: interrupted"
    assert not os.path.exists("x.sdc") and not os.path.exists("x.png")


def per_file(target: str) -> bool:
    """Return whether the command reports every error as one of its file."""
    return COMMANDS[target][0] in ("info", "verify")


@pytest.mark.parametrize("error", OS_ERRORS, ids=repr)
@pytest.mark.parametrize("place", ["open", "os.replace", "os.stat"])
def test_any_error_of_the_disk_is_one_line(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch, place: str, error: Exception
) -> None:
    run("encode", "a.png", "-o", "a.sdc", *OPTIONS, status=0)
    missing = place == "os.stat" and isinstance(error, FileNotFoundError)  # as of every new file

    def failing(usual: Callable[..., Any]) -> Callable[..., Any]:
        def fail(path: Any, *arguments: Any, **options: Any) -> Any:
            if "x." in str(path) or (".sdcodec-" in str(path) and not missing):
                raise error
            return usual(path, *arguments, **options)

        return fail

    if place == "open":
        monkeypatch.setattr(builtins, "open", failing(open))
    else:
        monkeypatch.setattr(place, failing(getattr(os, place.removeprefix("os."))))
    for arguments in (("encode", "a.png", "-o", "x.sdc", *OPTIONS), ("decode", "a.sdc", "-o", "x.png")):
        _, printed = run(*arguments, status=0 if missing else 1)
        assert missing or (is_one_line(printed) and arguments[3] in printed)
        assert missing or not os.path.lexists(arguments[3])
    assert not [name for name in os.listdir() if name.startswith(".sdcodec")]


def test_a_wrong_option_of_one_file_does_not_end_the_batch(folder: Path, run: Run) -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    frames[0].save("two.tif", save_all=True, append_images=frames[1:])
    _, printed = run("encode", "a.png", "two.tif", "b.png", "-o", "out", "--frame", "1", *OPTIONS, status=2)
    assert os.listdir("out") == ["two.sdc"]
    assert printed.count("frame 1 does not exist") == 2 and "2 of 3 files failed" in printed


def test_inputs_that_are_no_files_of_the_expected_kind(folder: Path, run: Run) -> None:
    (folder / "binary.toml").write_bytes(b"\xff\xfe")
    device = os.devnull
    for arguments, message in (
        (("train", "binary.toml", "--steps", "1"), "binary.toml: not valid TOML"),
        (("models", "add", "new", "--from", "-"), "-: no such folder, and no name on the hub"),
        (("eval", device, "--out", "results", "--codecs", "jpeg"), f"{device}: is a device or a pipe"),
        (("encode", device, "-o", "x.sdc", *OPTIONS), f"{device}: the file is empty"),
        (("decode", device, "-o", "x.png"), f"{device}: not an .sdc file"),
        (("compare", device, "-o", "x.png", "--codecs", "jpeg"), f"{device}: the file is empty"),
    ):
        _, printed = run(*arguments, status=2 if arguments[0] == "eval" else 1)
        assert is_one_line(printed) and message in printed


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="needs /dev/zero")
def test_an_input_without_an_end_is_refused_at_its_beginning(folder: Path) -> None:
    for arguments in (("decode", "/dev/zero", "-o", "x.png"), ("info", "/dev/zero"), ("verify", "/dev/zero")):
        words = [sys.executable, "-m", "sdcodec_cli", *arguments]
        done = subprocess.run(words, capture_output=True, check=False, timeout=60)
        assert done.returncode == 1 and b"/dev/zero: not an .sdc file" in done.stderr
    with pytest.raises(errors.FormatError, match=r"not an \.sdc file"):
        sdcodec.decode("/dev/zero")


def test_the_traceback_can_be_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise ValueError("a bug")
    except ValueError as error:
        assert explain(error) == (
            "unexpected ValueError: a bug; please report it, with the traceback that SDCODEC_TRACEBACK=1 prints"
        )
        assert capsys.readouterr().err == ""
        monkeypatch.setenv(TRACEBACK, "1")
        explain(error)
        assert "test_the_traceback_can_be_printed" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="needs signals of POSIX")
def test_interruption_during_the_start_is_no_traceback(folder: Path) -> None:
    code = (
        "import os, signal, threading\n"
        "from sdcodec_cli.main import main\n"
        "import sdcodec.bundles.shared as shared\n"
        "shared.load = lambda *_: os.kill(os.getpid(), signal.SIGINT)\n"
        f"main(['encode', 'a.png', '-o', 'x.sdc', *{OPTIONS!r}])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=120)
    assert done.returncode == 130 and done.stderr.strip() == b"sdcodec: interrupted"
