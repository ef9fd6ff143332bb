"""What `encode` and `decode` share: their common options, and the walk over the files."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os.path import lexists
from typing import Any, BinaryIO, TypeVar, cast

import click

from sdcodec.errors import OptionError, SdcodecError
from sdcodec.files import STANDARD_STREAM, Job, plan, read_bytes, refuse_existing
from sdcodec_cli.messages import explain, reporting

DEFAULT_MAX_PIXELS = 2**28  # sdcodec.pixels has the same; importing NumPy and Pillow for --help would be felt

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class Manner:
    """How results are written and talked about."""

    force: bool
    skip_existing: bool
    verbose: bool
    quiet: bool

    def __post_init__(self) -> None:
        if self.force and self.skip_existing:
            raise click.UsageError("--force and --skip-existing exclude each other.")
        if self.verbose and self.quiet:
            raise click.UsageError("--verbose and --quiet exclude each other.")


def conversion_options(command: Command) -> Command:
    """The options that `encode` and `decode` have in common, in the order in which --help shows them."""
    options = [
        click.option(
            "--device",
            type=click.Choice(["auto", "cpu", "cuda", "mps"]),
            default="auto",
            show_default=True,
            help="Where the networks run; auto prefers CUDA, then MPS.",
        ),
        click.option(
            "--precision",
            type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
            default="auto",
            show_default=True,
            help="auto is bfloat16 where that is fast, else float32.",
        ),
        click.option(
            "--max-pixels",
            type=click.IntRange(min=1),
            default=DEFAULT_MAX_PIXELS,
            show_default=True,
            metavar="N",
            help="Refuse larger images, before decoding them.",
        ),
        click.option("--force", is_flag=True, help="Replace existing files."),
        click.option("--skip-existing", is_flag=True, help="Leave files alone whose output exists."),
        click.option("-v", "--verbose", is_flag=True, help="Say more about each file."),
        click.option("--quiet", is_flag=True, help="Say nothing but errors."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def plan_or_usage_error(inputs: Sequence[str], output: str, extension: str) -> list[Job]:
    """The library's plan; what cannot be meant is wrong use, told with a hint at --help."""
    try:
        return plan(inputs, output, extension)
    except OptionError as error:
        raise click.UsageError(f"{error}.") from error


def convert(jobs: Sequence[Job], work: Callable[[Job], str], manner: Manner, *, label: str) -> None:
    """Does `work` for each job and prints the line that it returns.

    A failing file is reported and the others go on; then the exit status is 1. Wrong options end it at once.
    """
    failures = 0
    on_stderr = any(job.target == STANDARD_STREAM for job in jobs)
    with reporting(len(jobs), label=label, quiet=manner.quiet, on_stderr=on_stderr) as reporter:
        for job in jobs:
            try:
                if manner.skip_existing and lexists(job.target):
                    reporter.result(f"{click.format_filename(job.target)}: exists, skipped")
                else:
                    refuse_existing(job.target, force=manner.force)
                    reporter.result(work(job))
            except OptionError:
                raise
            except (SdcodecError, OSError, MemoryError) as error:
                reporter.error(explain(error, job.source))
                failures += 1
            reporter.step()
        if failures and len(jobs) > 1:
            reporter.error(f"{failures} of {len(jobs)} files failed")
    if failures:
        raise click.exceptions.Exit(1)


def image_source(source: str) -> str | BinaryIO:
    """What the library is to read an image from: the path, or all of standard input."""
    if source != STANDARD_STREAM:
        return source
    stream = io.BytesIO(read_bytes(source))
    stream.name = "standard input"  # for messages
    return cast(BinaryIO, stream)
