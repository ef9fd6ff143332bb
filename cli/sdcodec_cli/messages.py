"""Output of the commands: results, one-line errors and a progress bar."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO

import click

from sdcodec.errors import SdcodecWarning
from sdcodec.files import STANDARD_STREAM


def display_name(path: str, *, stream: str = "standard output") -> str:
    """Return a printable name of a file or of a standard stream."""
    return stream if path == STANDARD_STREAM else click.format_filename(path)


def explain(error: BaseException, source: str | None = None) -> str:
    """Return an error as one line that names the file."""
    message = " ".join(str(error).split()) or type(error).__name__
    name = display_name(source, stream="standard input") if source is not None else None
    if isinstance(error, OSError):
        message = error.strerror or message
        name = name or (display_name(str(error.filename)) if error.filename else None)
    elif isinstance(error, MemoryError):
        message = "too large for the memory of this machine; make the image smaller"
    return f"{name}: {message}" if name and name not in message else message


def say_error(message: str) -> None:
    """Print one line to standard error."""
    click.echo(f"sdcodec: {message}", err=True)


@contextmanager
def warnings_as_lines(say: Callable[[str], None], source: str = "") -> Iterator[None]:
    """Give each SdcodecWarning to `say` as one line, once.

    Other warnings stay as they are. `source`: the file in work, for warnings that name none.
    """
    said: set[str] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("always", SdcodecWarning)
        usual = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if isinstance(message, SdcodecWarning):
                name = f"{display_name(message.name or source)}: " if message.name or source else ""
                text = f"{name}warning: {' '.join(message.problem.split())}"
                if text not in said:
                    said.add(text)
                    say(text)
            else:
                usual(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        yield


@dataclass
class Reporter:
    """Print results and errors, above the progress bar if there is one."""

    quiet: bool
    on_stderr: bool
    advance: Callable[[int], None] | None = None

    def result(self, line: str) -> None:
        """Print the result of a file; on standard error if the output is standard output."""
        if not self.quiet:
            self._clear()
            click.echo(line, err=self.on_stderr)

    def error(self, line: str) -> None:
        """Print the error or warning of a file."""
        self._clear()
        say_error(line)

    def step(self) -> None:
        """Advance the progress bar by one file."""
        if self.advance is not None:
            self.advance(1)

    def _clear(self) -> None:
        if self.advance is not None:
            click.echo("\r\x1b[K", nl=False, err=True)


@contextmanager
def reporting(count: int, *, label: str, quiet: bool, on_stderr: bool) -> Iterator[Reporter]:
    """Yield a Reporter for `count` files, on a terminal with a progress bar."""
    if quiet or count < 2 or not sys.stderr.isatty():
        yield Reporter(quiet, on_stderr)
        return
    with click.progressbar(range(count), label=label, file=sys.stderr, show_pos=True) as bar:
        yield Reporter(quiet, on_stderr, bar.update)
