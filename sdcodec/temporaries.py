"""Temporary files and claims on folders, which end with their process.

A temporary is locked while its process lives, and the system releases the lock however the process ends. One whose
lock can be taken was therefore left by a killed process.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sdcodec.errors import OutputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PREFIX, SUFFIX = ".sdcodec-", ".tmp"
ABANDONED_SECONDS = 86_400  # age at which a temporary counts as left, on systems without locks
ATTEMPTS = 10


@contextmanager
def temporary_file(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Make an empty file with a new name in a folder.

    It is deleted at the end if it still has that name. Raises OSError.
    """
    with _temporary(os.fspath(folder), lambda path: os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o666))) as path:
        yield path


@contextmanager
def temporary_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Make an empty folder with a new name in a folder.

    It is deleted at the end, with its content. Raises OSError.
    """
    with _temporary(os.fspath(folder), os.mkdir) as path:
        yield path


def remove_abandoned(folder: str | os.PathLike[str]) -> None:
    """Delete the temporaries that killed processes left in a folder.

    Those of living processes stay, and those that cannot be deleted. The folder may be missing.
    """
    with contextlib.suppress(OSError):
        with os.scandir(folder) as entries:
            found = [entry.path for entry in entries if entry.name.startswith(PREFIX) and entry.name.endswith(SUFFIX)]
        for path in found:
            _remove_if_abandoned(path)


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Keep other processes that claim a folder out of it.

    It is made if it is missing, and deleted at the end if it was made and is empty. Raises OutputError if another
    process has claimed it, or it cannot be made.
    """
    made = not folder.exists()
    try:
        lock = _claim(str(folder))
    except BlockingIOError as error:
        raise OutputError(f"{folder}: another process works in this folder; wait for it, or give another") from error
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made ({error.strerror or error}); choose another place") from error
    try:
        yield
    finally:
        if made:
            with contextlib.suppress(OSError):  # it is not empty
                os.rmdir(folder)
        _release(lock)


def _claim(folder: str) -> int | None:
    """Make a folder if it is missing, and lock it; return the lock."""
    for _ in range(ATTEMPTS):
        os.makedirs(folder, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # the process that made it has just deleted it
            lock = _lock(folder, wait=False)
            if lock is None or _is_open(folder, lock):
                return lock
            _release(lock)
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), folder)


@contextmanager
def _temporary(folder: str, make: Callable[[str], None]) -> Iterator[Path]:
    path, lock = _made(folder, make)
    try:
        yield Path(path)
    finally:
        _remove(path)
        _release(lock)


def _made(folder: str, make: Callable[[str], None]) -> tuple[str, int | None]:
    """Make a temporary and lock it; return its path and the lock."""
    for _ in range(ATTEMPTS):
        path = os.path.join(folder, f"{PREFIX}{secrets.token_hex(8)}{SUFFIX}")
        make(path)
        try:
            lock = _lock(path, wait=True)
            if lock is None or _is_open(path, lock):
                return path, lock
            _release(lock)  # another process found it before it was locked, and deleted it
        except FileNotFoundError:
            continue
        except BaseException:
            _remove(path)
            raise
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), folder)


def _lock(path: str, *, wait: bool) -> int | None:
    """Lock a file or folder; return the descriptor that holds the lock.

    It is None on a system without locks. Raises BlockingIOError if another process has locked it, unless it is to
    `wait`.
    """
    if fcntl is None:
        return None
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise
        return None  # some network file systems
    return descriptor


def _release(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)


def _is_open(path: str, descriptor: int) -> bool:
    """Return whether the path still names the file or folder that is open."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _remove_if_abandoned(path: str) -> None:
    with contextlib.suppress(OSError):  # locked by a living process, or deleted meanwhile
        lock = _lock(path, wait=False)
        try:
            if lock is not None or time.time() - os.stat(path).st_mtime > ABANDONED_SECONDS:
                _remove(path)
        finally:
            _release(lock)


def _remove(path: str) -> None:
    if os.path.isdir(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):  # it has its final name, or the disk is gone: the first error has the reason
            os.unlink(path)
