"""Output of the commands: results, errors and warnings, one line each."""

from __future__ import annotations

import contextlib
import os
import traceback
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TextIO

import click

from sdcodec.errors import OutputError, SdcodecError, SdcodecWarning
from sdcodec.files import STANDARD_STREAM, forget_standard_output

TRACEBACK = "SDCODEC_TRACEBACK"  # environment variable: print the traceback of an error, too
OBEYED = frozenset(["Cc", "Cs", "Zl", "Zp"])  # Unicode categories: control characters, surrogates, line separators
REORDERING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: str, *, keep: str = "") -> str:
    """Escape the characters that a terminal obeys instead of showing them.

    Those in `keep` stay.
    """
    return "".join(
        character.encode("unicode_escape").decode("ascii")
        if character not in keep and (unicodedata.category(character) in OBEYED or character in REORDERING)
        else character
        for character in text
    )


def display_name(path: str, *, stream: str = "standard output") -> str:
    """Return a printable name of a file or of a standard stream."""
    return stream if path == STANDARD_STREAM else printable(path)


def explain(error: BaseException, source: str | None = None) -> str:
    """Return an error as one line that names the file.

    If the environment variable TRACEBACK is set, print its traceback before.
    """
    if os.environ.get(TRACEBACK):
        traceback.print_exception(error)
    text = str(error)
    message = printable(text if isinstance(error, SdcodecError) else " ".join(text.split()))
    name = display_name(source, stream="standard input") if source is not None else None
    if isinstance(error, OSError):
        message = printable(error.strerror or "") or message or type(error).__name__
        name = name or (display_name(str(error.filename)) if error.filename else None)
    elif _is_out_of_memory(error):
        message = "not enough memory; make the image smaller, or choose another --device or --precision"
    elif isinstance(error, ImportError):
        message = f"{message}; install sdcodec again, with the extra that this needs"
    elif not isinstance(error, SdcodecError):
        kind = type(error).__name__
        message = (
            f"unexpected {kind}{': ' if message else ''}{message}; "
            f"please report it, with the traceback that {TRACEBACK}=1 prints"
        )
    return f"{name}: {message}" if name and name not in message else message


def _is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory is exhausted.

    PyTorch, which may not be loaded, has its own class for it.
    """
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def say(text: str) -> None:
    """Print a result to standard output.

    If its reader has gone, the command ends with status 1. Raises OutputError if it cannot be written.
    """
    try:
        click.echo(printable(text, keep="\n"))
    except BrokenPipeError as error:
        forget_standard_output()
        raise click.exceptions.Exit(1) from error
    except OSError as error:
        forget_standard_output()
        raise OutputError(f"standard output: cannot be written ({error.strerror or error})") from error


def say_error(message: str) -> None:
    """Print one line to standard error, if there is one."""
    with contextlib.suppress(OSError, ValueError):
        click.echo(f"sdcodec: {printable(message)}", err=True)


def for_each_file(names: Iterable[str], work: Callable[[str], str]) -> None:
    """Print the result of `work` for each file, and report those that fail.

    Ends with status 1 if any fails.
    """
    failed = False
    for name in names:
        try:
            line = work(name)
        except Exception as error:  # whatever it is, the other files are processed
            say_error(explain(error, name))
            failed = True
        else:
            say(line)
    if failed:
        raise click.exceptions.Exit(1)


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
                text = f"{name}warning: {printable(' '.join(message.problem.split()))}"
                if text not in said:
                    said.add(text)
                    say(text)
            else:
                usual(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        yield
