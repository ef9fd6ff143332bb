"""Entry point of the `sdcodec` command: subcommands, version and exit status."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from sdcodec.errors import OptionError
from sdcodec_cli.compare import compare
from sdcodec_cli.decode import decode
from sdcodec_cli.encode import encode
from sdcodec_cli.evaluate import evaluate
from sdcodec_cli.info import info
from sdcodec_cli.messages import explain, printable, say_error, warnings_as_lines
from sdcodec_cli.models import models
from sdcodec_cli.show import show
from sdcodec_cli.train import train
from sdcodec_cli.verify import verify


def _version() -> str:
    try:
        return importlib.metadata.version("sdcodec")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


class _CommandError(Exception):
    """An error of a command that click must not see: its cause."""


class _Commands(click.Group):
    """Group whose errors reach `main` as they are."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (OSError, EOFError) as error:  # click hides a broken pipe, and calls the end of a file an interruption
            raise _CommandError from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80})
@click.version_option(_version(), message="%(prog)s %(version)s")
def cli() -> None:
    """Neural image compression: photographs in a few thousand bytes.

    \b
    Examples:
      sdcodec encode photo.jpg -o photo.sdc --bytes 5000
      sdcodec decode photo.sdc -o photo.png
      sdcodec info photo.sdc

    Exit status: 0 success, 1 a file failed, 2 wrong usage, 130 interrupted.
    """


for command in (encode, decode, show, info, verify, models, evaluate, compare, train):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit with its status.

    The status is 0 (success), 1 (a file failed), 2 (wrong usage) or 130 (interrupted).
    """
    # Threads that wait for work spin by default: two commands on the same cores then take many times as long as one.
    # OpenMP reads it when PyTorch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # print file names that the terminal cannot show
    try:
        with warnings_as_lines(say_error):
            result = cli.main(args=arguments, prog_name="sdcodec", standalone_mode=False, windows_expand_args=False)
        status = result if isinstance(result, int) else 0
    except click.ClickException as error:
        text = io.StringIO()
        error.show(text)
        with contextlib.suppress(OSError, ValueError):  # standard error is closed
            click.echo(printable(text.getvalue(), keep="\n"), err=True, nl=False)
        status = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        say_error("interrupted")
        status = 130
    except Exception as error:
        cause = error.__cause__ if isinstance(error, _CommandError) and error.__cause__ else error
        say_error(explain(cause))
        status = 2 if isinstance(cause, OptionError) else 1
    sys.exit(status)


if __name__ == "__main__":
    main()
