"""Places of results, found before anything is read or written."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sdcodec.errors import OptionError, OutputError
from sdcodec.files import STANDARD_STREAM, check_outputs
from sdcodec_cli.inputs import Found


@dataclass(frozen=True)
class Job:
    """One input and the place of its result.

    Either may be `-`, standard input or output.
    """

    source: str
    target: str


@dataclass(frozen=True)
class Plan:
    """Jobs of a command, in order.

    new_folders: folders of their targets that have to be made.
    """

    jobs: tuple[Job, ...]
    new_folders: tuple[str, ...] = ()

    def check(self) -> None:
        """Check that the outputs can be written, except in new folders.

        A target beside a missing input is left to the error of the input. Raises OutputError.
        """
        check_outputs(job.target for job in self.jobs if not self._in_new_folder(job) and not _in_missing_folder(job))

    def make_folders(self) -> None:
        """Make the new folders, and check that files can be written there.

        Raises OutputError.
        """
        for folder in self.new_folders:
            try:
                os.makedirs(folder, exist_ok=True)
            except OSError as error:
                raise OutputError(
                    f"{folder}: cannot be made ({error.strerror or error}); choose another place"
                ) from error
        check_outputs(job.target for job in self.jobs if self._in_new_folder(job))

    def _in_new_folder(self, job: Job) -> bool:
        return os.path.dirname(job.target) in self.new_folders


def _in_missing_folder(job: Job) -> bool:
    folder = os.path.dirname(job.source)
    return folder == os.path.dirname(job.target) and not os.path.isdir(folder or os.curdir)


def plan(inputs: Sequence[Found], output: str | None, extension: str) -> Plan:
    """Give every input its output.

    output: a file, a folder (it exists, ends in a separator, or has to hold several results), `-`, or None for the
    folder of each input. In a folder the result has the name of its input, with `extension` (no dot) instead of its
    own, and the subfolder of its input. The same input, given twice, is one job.

    Raises OptionError for contradictions: two results of one name, a result over an input.
    """
    several = len(inputs) != 1 or inputs[0].subfolder is not None
    if output == STANDARD_STREAM:
        if several:
            raise OptionError("several inputs do not fit into one standard output; give a folder")
        return Plan((Job(inputs[0].path, output),))
    folder = output is None or output.endswith(("/", os.sep)) or os.path.isdir(output) or several
    if folder and output is not None and not os.path.isdir(output):
        if os.path.lexists(output.rstrip("/" + os.sep)):
            raise OptionError(f"{output}: is a file, and a folder is needed; give another output")
        if output.lower().endswith(f".{extension}"):  # hardly meant as a folder
            raise OptionError(f"{output}: several inputs need a folder; end the name in / if it is one")
    if folder and any(found.path == STANDARD_STREAM for found in inputs):
        raise OptionError("standard input has no name to call a file by; give one output file, or -o -")
    jobs = [Job(found.path, _target(found, output, extension) if folder else str(output)) for found in inputs]
    jobs = _distinct(jobs)
    needed = dict.fromkeys(os.path.dirname(job.target) for job in jobs) if folder and output is not None else {}
    return Plan(tuple(jobs), tuple(name for name in needed if not os.path.isdir(name or os.curdir)))


def _target(found: Found, output: str | None, extension: str) -> str:
    name = f"{Path(found.path).stem}.{extension}"
    if output is None:
        return os.path.join(os.path.dirname(found.path), name)
    return os.path.join(output, found.subfolder or "", name)


def _distinct(jobs: Sequence[Job]) -> list[Job]:
    sources = {key for job in jobs if job.source != STANDARD_STREAM for key in (_name(job.source), _file(job.source))}
    taken: dict[object, Job] = {}
    for job in jobs:
        name = _name(job.target)
        if {name, _file(job.target)} & sources:
            raise OptionError(f"{job.target}: would be written over an input; give another output")
        other = taken.setdefault(name, job)
        if _name(other.source) != _name(job.source):
            raise OptionError(
                f"{other.source} and {job.source} would both be written to {job.target}; "
                "rename one, or give them different folders"
            )
    return list(taken.values())


def _name(path: str) -> object:
    """Return the same text for every path of one file.

    On file systems that usually ignore case, so does this.
    """
    real = os.path.normcase(os.path.realpath(path))
    return real.casefold() if sys.platform == "darwin" else real


def _file(path: str) -> object:
    """Return the device and the number of an existing file, which hard links share."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return _name(path)
    return found.st_dev, found.st_ino
