"""Progress of a command over many files: results, errors, and a bar or lines."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, TextIO

import click

from sdcodec.files import forget_standard_output
from sdcodec_cli.messages import printable, say_error

if TYPE_CHECKING:
    from tqdm import tqdm

PERIOD = 10.0  # seconds between lines of progress where no bar can be drawn


class Reporter:
    """Print results and errors, above the progress bar if there is one.

    count: files to process; quiet: print errors only; on_stderr: results go to standard error; failed: standard output
    cannot be written.
    """

    def __init__(self, count: int, label: str, *, quiet: bool, on_stderr: bool) -> None:
        self.count, self.label = count, label
        self.quiet, self.on_stderr = quiet, on_stderr
        self.failed = False
        self.done = 0
        self.start = self.last = time.monotonic()

    def result(self, line: str) -> None:
        """Print the result of a file; on standard error if the output is standard output.

        The file is written by then: a reader of standard output that has gone is no failure.
        """
        if self.quiet:
            return
        try:
            self._print(line)
        except BrokenPipeError:
            forget_standard_output()
            self.quiet = True
        except OSError as error:
            forget_standard_output()
            self.quiet = True
            self.failed = True
            self.error(f"standard output: cannot be written ({error.strerror or error})")

    def error(self, line: str) -> None:
        """Print the error or warning of a file, or the summary."""
        say_error(line)

    def step(self) -> None:
        """Count a file as done."""
        self.done += 1

    def idle(self) -> None:
        """Show that time passes."""

    @property
    def seconds(self) -> float:
        """Return the time since the start, in seconds."""
        return time.monotonic() - self.start

    def _print(self, line: str) -> None:
        click.echo(printable(line), err=self.on_stderr)


class _LineReporter(Reporter):
    """Print a line of progress every PERIOD seconds."""

    def step(self) -> None:
        super().step()
        self.idle()

    def idle(self) -> None:
        now = time.monotonic()
        if now - self.last < PERIOD or self.done == self.count:
            return
        self.last = now
        left = (
            timedelta(seconds=round((now - self.start) / self.done * (self.count - self.done))) if self.done else None
        )
        self.error(f"{self.label}: {self.done} of {self.count} files" + (f", about {left} left" if left else ""))


class _BarReporter(Reporter):
    """Keep a bar below the lines."""

    def __init__(self, bar: tqdm[None], count: int, label: str, *, quiet: bool, on_stderr: bool) -> None:
        super().__init__(count, label, quiet=quiet, on_stderr=on_stderr)
        self.bar = bar

    def error(self, line: str) -> None:
        self.bar.clear()
        super().error(line)
        self.bar.refresh()

    def step(self) -> None:
        super().step()
        self.bar.update()

    def idle(self) -> None:
        self.bar.refresh()

    def _print(self, line: str) -> None:
        self.bar.clear()
        super()._print(line)
        self.bar.refresh()


def _has_size(terminal: TextIO) -> bool:
    """Return whether a terminal knows its size.

    Those of containers and recorders often have 0 columns and rows, where tqdm draws nothing.
    """
    try:
        return min(os.get_terminal_size(terminal.fileno())) > 0
    except (OSError, ValueError):
        return False


@contextmanager
def reporting(count: int, *, label: str, quiet: bool, progress: bool, on_stderr: bool) -> Iterator[Reporter]:
    """Yield a Reporter for `count` files.

    With several files and `progress`, it draws a bar on a terminal, and prints lines elsewhere.
    """
    if quiet or not progress or count < 2 or sys.stderr is None:
        yield Reporter(count, label, quiet=quiet, on_stderr=on_stderr)
    elif not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield _LineReporter(count, label, quiet=quiet, on_stderr=on_stderr)
    else:
        from tqdm import tqdm

        tqdm.set_lock(threading.RLock())  # the default one is shared with other processes
        tqdm.monitor_interval = 0  # no thread that draws while a library's messages are caught
        size = {"dynamic_ncols": True} if _has_size(sys.stderr) else {"ncols": 80, "nrows": 24}
        with tqdm(total=count, desc=label, unit="file", file=sys.stderr, leave=False, mininterval=0, **size) as bar:
            yield _BarReporter(bar, count, label, quiet=quiet, on_stderr=on_stderr)
