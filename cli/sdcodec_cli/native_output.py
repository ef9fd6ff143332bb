"""Lines that C libraries print to standard error themselves, such as libtiff."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from sdcodec.errors import SdcodecError, warn

MOST_READ, MOST_LINES, LONGEST = 1 << 16, 3, 200  # bytes, lines and characters of a line: libraries repeat themselves


@contextmanager
def native_output_told(name: str) -> Iterator[None]:
    """Put what libraries print meanwhile into a message.

    It is that of an SdcodecError, or of a warning about `name` if there is none.
    """
    lines: list[str] = []
    try:
        with _caught(lines):
            yield
    except SdcodecError as error:
        if lines:
            error.args = (f"{error} ({'; '.join(lines)})", *error.args[1:])
        raise
    if lines:
        warn(f"a library reports: {'; '.join(lines)}", name)


@contextmanager
def _caught(lines: list[str]) -> Iterator[None]:
    """Add the distinct lines that are printed to file descriptor 2 meanwhile.

    Python's own standard error still goes where it went.
    """
    python_stderr = sys.stderr
    try:
        kept = os.dup(2) if python_stderr is not None and python_stderr.fileno() == 2 else -1
    except (OSError, ValueError):  # not a file, or closed
        kept = -1
    if kept < 0:
        yield
        return
    try:
        caught = tempfile.TemporaryFile()  # noqa: SIM115 (closed below)
    except OSError:  # no room for temporary files: the lines go where they go
        os.close(kept)
        yield
        return
    encoding, errors = python_stderr.encoding, python_stderr.errors
    with caught, os.fdopen(kept, "w", 1, encoding=encoding, errors=errors) as direct:
        try:
            python_stderr.flush()
            os.dup2(caught.fileno(), 2)
            sys.stderr = direct
            yield
        finally:
            sys.stderr = python_stderr
            os.dup2(kept, 2)
            caught.seek(0)
            text = caught.read(MOST_READ).decode("utf-8", "replace")
            found = dict.fromkeys(line.strip()[:LONGEST] for line in text.splitlines() if line.strip())
            lines += list(found)[:MOST_LINES]
