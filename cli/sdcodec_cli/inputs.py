"""Inputs of a command over many files: names, folders and wildcards."""

from __future__ import annotations

import errno
import glob
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from sdcodec.errors import warn
from sdcodec.files import STANDARD_STREAM, read_bytes

if TYPE_CHECKING:
    from sdcodec.container import Container

SHELL_EXPANDS = os.name != "nt"  # the shells of Windows leave wildcards to the program


@dataclass(frozen=True)
class Found:
    """One input file.

    subfolder: its place below the folder that was given, "" directly in it; None for a file that was named itself.
    """

    path: str
    subfolder: str | None = None


def expanded(ctx: click.Context, param: click.Parameter, value: Sequence[str]) -> tuple[str, ...]:
    """Replace `*` and `?` in names by the files that match, sorted.

    This is a callback of click; shells other than those of Windows have done it before.
    A name that exists, or that nothing matches, stays. Brackets have no special meaning: file names contain them.
    """
    if SHELL_EXPANDS:
        return tuple(value)
    names: list[str] = []
    for name in value:
        wild = ("*" in name or "?" in name) and not os.path.lexists(name)
        names += (sorted(glob.glob(name.replace("[", "[[]"))) if wild else []) or [name]
    return tuple(names)


def parsed(name: str) -> tuple[bytes, Container]:
    """Read a `.sdc` file, or standard input for `-`, and check it without its model.

    Warns of bytes behind its end. Raises OSError and FormatError.
    """
    from sdcodec.container import MAGIC, Container

    data = read_bytes(name, MAGIC)
    container = Container.from_bytes(data)
    if container.trailing:
        warn(f"{container.trailing} bytes behind the end of the file are ignored", name)
    return data, container


def find(names: Sequence[str], extensions: Collection[str], *, recursive: bool, output: str | None) -> list[Found]:
    """List the input files of a command.

    A folder stands for the files in it with one of `extensions`, upper-case or lower-case.
    Order: that of `names`; in a folder by name, files before subfolders. Files and folders whose names begin with a dot
    are left out, and so is the folder `output`, whose files are results. Links to folders are not followed. Raises
    OSError for a folder that is missing or cannot be read.
    """
    found: list[Found] = []
    for name in names:
        if name != STANDARD_STREAM and os.path.isdir(name):
            found += _in_folder(name, extensions, recursive, output)
        elif name.endswith(("/", os.sep)):
            raise FileNotFoundError(errno.ENOENT, "no such folder", name)
        else:
            found.append(Found(name))
    return found


def _in_folder(folder: str, extensions: Collection[str], recursive: bool, output: str | None) -> Iterator[Found]:
    results = None if output in (None, STANDARD_STREAM) else os.path.realpath(str(output))
    for place, folders, files in os.walk(folder, onerror=_refuse):
        subfolder = os.path.relpath(place, folder)
        for name in sorted(files):
            ending = os.path.splitext(name)[1].removeprefix(".").lower()
            if ending in extensions and not name.startswith("."):
                yield Found(os.path.join(place, name), "" if subfolder == os.curdir else subfolder)
        folders[:] = sorted(name for name in folders if recursive and not name.startswith("."))
        folders[:] = [name for name in folders if os.path.realpath(os.path.join(place, name)) != results]


def _refuse(error: OSError) -> None:
    raise error
