"""Work of a command on one file, and its outcome: plain values that processes can exchange."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from sdcodec.errors import OptionError
from sdcodec_cli.messages import explain, warnings_as_lines


@dataclass(frozen=True)
class Result:
    """A file's result, not written yet.

    line: text to print behind the name of the target; pixels: of the image; bytes_in: size of the input; incomplete:
    part of the input is lost, which counts as a failure.
    """

    data: bytes
    line: str
    pixels: int
    bytes_in: int
    incomplete: bool = False


@dataclass(frozen=True)
class Outcome:
    """A result, or the error in its place; wrong_use: the error is due to the options."""

    result: Result | None
    error: str = ""
    wrong_use: bool = False
    warnings: tuple[str, ...] = ()


Work = Callable[[str], Result]


class Task(Protocol):
    """The work of a command on each file; it can be pickled."""

    def load(self) -> Work:
        """Load what all files need, once in a process, and return the work on a file's name or `-`."""
        ...


def outcome_of(work: Work, source: str) -> Outcome:
    """Run the work for one file.

    Whatever error it raises becomes a line, so that the other files are processed.
    """
    warnings: list[str] = []
    try:
        with warnings_as_lines(warnings.append, source):
            result = work(source)
    except Exception as error:
        return Outcome(None, explain(error, source), isinstance(error, OptionError), tuple(warnings))
    return Outcome(result, warnings=tuple(warnings))
