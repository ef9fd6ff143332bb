"""Work of a command on one file, and its outcome, for exchange by processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from sdcodec.errors import OptionError
from sdcodec_cli.messages import explain, warnings_as_lines


@dataclass(frozen=True)
class Result:
    """A file's result, not written yet.

    line: text to print behind the name of the target; pixels: of the image; bytes_in: size of the input; larger: the
    result should be smaller than its input, and is not; incomplete: part of the input is lost, which counts as a
    failure.
    """

    data: bytes
    line: str
    pixels: int
    bytes_in: int
    larger: bool = False
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

    def load(self, threads: int | None) -> Work:
        """Load what all files need, and return the work on a file's name or `-`.

        Each process calls it once. threads: CPU threads of the process; None for all that are available.
        """
        ...


def outcome_of(work: Work, source: str) -> Outcome:
    """Run the work for one file.

    Every error becomes a line, so that the other files are processed.
    """
    warnings: list[str] = []
    try:
        with warnings_as_lines(warnings.append, source):
            result = work(source)
    except Exception as error:
        return Outcome(None, explain(error, source), isinstance(error, OptionError), tuple(warnings))
    return Outcome(result, warnings=tuple(warnings))
