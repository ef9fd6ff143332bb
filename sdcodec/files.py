"""Files: input of bytes, and output that is written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

from sdcodec.errors import OutputError, SdcodecError
from sdcodec.temporaries import remove_abandoned, temporary_file, temporary_folder

STANDARD_STREAM = "-"
RUST_ERROR = re.compile(r"\(os error (\d+)\)")  # in messages of safetensors


def read_bytes(source: str, magic: bytes = b"") -> bytes:
    """Read a file or, for `-`, standard input. Raises OSError.

    Of a file that does not begin with `magic`, only the beginning is read: it may be huge, or a device without an end.
    """
    if source == STANDARD_STREAM:
        if sys.stdin is None:
            raise OSError(errno.EBADF, "is closed; give a file", "standard input")
        return _read_after(magic, sys.stdin.buffer)
    if os.path.isdir(source):
        raise IsADirectoryError(errno.EISDIR, "is a folder; give the files in it", source)
    with open(source, "rb") as file:
        return _read_after(magic, file)


def _read_after(magic: bytes, file: BinaryIO) -> bytes:
    head = file.read(len(magic))
    return head + file.read() if head == magic else head


def write_bytes(target: str, data: bytes, *, force: bool = False) -> None:
    """Write to a file (see `atomic_write`) or, for `-`, to standard output.

    Raises OutputError.
    """
    if target != STANDARD_STREAM:
        atomic_write(target, data, force=force)
        return
    if sys.stdout is None:
        raise OutputError("standard output: is closed; give a file")
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as error:
        forget_standard_output()
        raise OutputError(f"standard output: cannot be written ({error.strerror})") from error


def forget_standard_output() -> None:
    """Discard the output that Python still holds, so that it does not fail at exit."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: not a real stream, nothing to flush
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def check_outputs(targets: Iterable[str]) -> None:
    """Check that files can be written, before the work whose results they take.

    A temporary file is made in each of their folders, and those that killed processes left there are deleted. Raises
    OutputError for a folder that is missing or not writable, and for a name that belongs to a folder.
    """
    checked: set[str] = set()
    for name in targets:
        if name == STANDARD_STREAM:
            continue
        target = os.path.realpath(name)
        folder = os.path.dirname(target)
        try:
            if _is_special(name, target):
                if not os.access(target, os.W_OK):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            elif folder not in checked:
                remove_abandoned(folder)
                with temporary_file(folder):
                    checked.add(folder)
        except OSError as error:
            raise _output_error(name, error) from error


def atomic_write(path: str | os.PathLike[str], data: bytes, *, force: bool = False) -> None:
    """Write a file whole or not at all.

    A temporary file in the same folder takes its name when complete. An existing file is replaced only with `force`,
    and its permissions stay. Links are followed. Devices and pipes (`/dev/null`) are written to directly. Raises
    OutputError.
    """
    name = os.fspath(path)
    target = os.path.realpath(name)
    try:
        if _is_special(name, target):
            with open(target, "wb") as file:
                file.write(data)
            return
        refuse_existing(name, force=force)
        with temporary_file(os.path.dirname(target)) as temporary:
            temporary.write_bytes(data)
            if os.path.exists(target):
                os.chmod(temporary, stat.S_IMODE(os.stat(target).st_mode))
            refuse_existing(name, force=force)  # it may have been created meanwhile
            os.replace(temporary, target)
    except OSError as error:
        raise _output_error(name, error) from error


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write or replace a file, whole or not at all, by a function of its name.

    It writes into a temporary folder beside the file, since libraries make temporary files of their own. Those that
    killed processes left are deleted. Raises OutputError, also for a failure of the disk that a library reports by an
    exception of its own; other exceptions of `write` pass.
    """
    target = Path(os.path.realpath(path))
    remove_abandoned(target.parent)
    try:
        with temporary_folder(target.parent) as folder:
            temporary = folder / target.name
            write(temporary)
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)  # safetensors makes files that only their owner can read
            os.replace(temporary, target)
    except SdcodecError:
        raise
    except Exception as error:
        cause = _system_error(error)
        if cause is None:
            raise
        raise _output_error(str(path), cause) from error


def append_lines(path: Path, text: str, *, header: str = "") -> None:
    """Append whole lines to a text file.

    An empty or new one first gets the `header`. An incomplete last line, which a killed process left, is deleted.
    Raises OutputError.
    """
    try:
        with open(path, "ab+") as file:
            end = whole = file.seek(0, os.SEEK_END)
            if end:
                file.seek(end - 1)
                if file.read() != b"\n":
                    file.seek(0)
                    whole = file.read().rfind(b"\n") + 1
                    file.truncate(whole)
            file.write((text if whole else header + text).encode())
    except OSError as error:
        raise _output_error(str(path), error) from error


def replace_folder(new: Path, target: Path) -> None:
    """Give a finished folder its name.

    An earlier folder of this name is moved beside `new` before, and is the caller's to delete. No half folder ever has
    the name; between the two moves it is free. Raises OutputError.
    """
    aside = new.with_name(f"{new.name}.replaced")
    try:
        if os.path.lexists(target):
            os.rename(target, aside)
        try:
            os.rename(new, target)
        except OSError:
            with contextlib.suppress(OSError):
                os.rename(aside, target)
            raise
    except OSError as error:
        raise _output_error(str(target), error) from error


def refuse_existing(target: str, *, force: bool = False) -> None:
    """Raise OutputError if a regular file exists and is not to be replaced."""
    if not force and os.path.isfile(target):
        raise OutputError(f"{target}: exists already; give --force to replace it, or another name")


def _is_special(name: str, target: str) -> bool:
    """Return whether a target is a device or a pipe.

    Raises OutputError for a folder, and OSError for an impossible name.
    """
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(mode):
        raise OutputError(f"{name}: is a folder; give a file name")
    return not stat.S_ISREG(mode)


def _system_error(error: BaseException) -> OSError | None:
    """Return the error of the operating system behind a library's exception, or None."""
    following: BaseException | None = error
    while following is not None:
        if isinstance(following, OSError):
            return following
        if found := RUST_ERROR.search(str(following)):
            return OSError(int(found[1]), os.strerror(int(found[1])))
        following = following.__cause__ or following.__context__
    return None


def _output_error(name: str, error: OSError) -> OutputError:
    if error.errno == errno.ENOENT:
        reason = f"the folder {os.path.dirname(name) or '.'} does not exist; make it first"
    elif error.errno == errno.ENOSPC:
        reason = "cannot be written, the disk is full; make room or choose another disk"
    else:
        reason = f"cannot be written ({error.strerror or error}); choose another place"
    return OutputError(f"{name}: {reason}")
