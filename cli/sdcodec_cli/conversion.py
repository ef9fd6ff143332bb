"""Common options of `encode` and `decode`, and the loop over their files."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from typing import Any, BinaryIO, TypeVar, cast

import click

from sdcodec.errors import OptionError
from sdcodec.files import STANDARD_STREAM, Job, check_outputs, plan, read_bytes, refuse_existing
from sdcodec_cli.messages import display_name, explain, reporting, warnings_as_lines

# As in sdcodec.pixels and sdcodec.loaded, whose import would slow down --help.
DEFAULT_MAX_PIXELS, DECODED_MAX_PIXELS = 2**28, 2**26
# Extensions of files that viewers open as images.
IMAGE_FORMATS = frozenset(
    [
        "png",
        "jpg",
        "jpeg",
        "jfif",
        "jpe",
        "webp",
        "avif",
        "heic",
        "heif",
        "jxl",
        "jp2",
        "tif",
        "tiff",
        "bmp",
        "gif",
        "ppm",
        "pgm",
        "pnm",
        "ico",
    ]
)

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class OutputOptions:
    """Options for existing output files and for the amount of output."""

    force: bool
    skip_existing: bool
    verbose: bool
    quiet: bool

    def __post_init__(self) -> None:
        if self.force and self.skip_existing:
            raise click.UsageError("--force and --skip-existing exclude each other.")
        if self.verbose and self.quiet:
            raise click.UsageError("--verbose and --quiet exclude each other.")


def file_arguments(command: Command) -> Command:
    """Add the argument INPUT... and the option --output to a command."""
    return with_parameters(
        command,
        click.argument("inputs", metavar="INPUT...", nargs=-1, required=True),
        click.option(
            "-o", "--output", metavar="OUTPUT", required=True, help="A file, a folder, or - (standard output)."
        ),
    )


def conversion_options(max_pixels: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the common options of `encode` and `decode` to a command.

    The command receives `device`, `precision`, `max_pixels` (with this default), and the others as `options`, an
    OutputOptions.
    """

    def decorator(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def gathered(**values: Any) -> None:
            options = {field.name: values.pop(field.name) for field in fields(OutputOptions)}
            command(options=OutputOptions(**options), **values)

        return with_parameters(
            gathered,
            click.option(
                "--device",
                type=click.Choice(["auto", "cpu", "cuda", "mps"]),
                default="auto",
                show_default=True,
                help="Device of the networks; auto prefers CUDA, then MPS, then the CPU.",
            ),
            click.option(
                "--precision",
                type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
                default="auto",
                show_default=True,
                help="Number format of the networks; auto selects bfloat16 on hardware that is fast at it, else float32.",
            ),
            click.option(
                "--max-pixels",
                type=click.IntRange(min=1),
                default=max_pixels,
                show_default=True,
                metavar="N",
                help="Refuse images with more than N pixels before decoding them.",
            ),
            click.option("--force", is_flag=True, help="Replace existing files."),
            click.option("--skip-existing", is_flag=True, help="Skip inputs whose output exists."),
            click.option("-v", "--verbose", is_flag=True, help="Print more about each file."),
            click.option("--quiet", is_flag=True, help="Print errors only."),
        )

    return decorator


def with_parameters(command: Command, *parameters: Callable[[Command], Command]) -> Command:
    """Apply click's decorators so that --help lists them in the given order."""
    for parameter in reversed(parameters):
        command = parameter(command)
    return command


def plan_or_usage_error(inputs: Sequence[str], output: str, extension: str) -> list[Job]:
    """Plan the outputs of a command, and check that they can be written.

    Raises UsageError for contradictory arguments, OutputError for an output that cannot be written.
    """
    try:
        jobs = plan(inputs, output, extension)
    except OptionError as error:
        raise click.UsageError(f"{error}.") from error
    check_outputs(job.target for job in jobs)
    return jobs


def named_format(output: str) -> str | None:
    """Return the extension of an output file, lower-case and without a dot.

    It is None for a name without extension, a folder or `-`.
    """
    ending = os.path.splitext(output)[1].lower().removeprefix(".")
    return None if output == STANDARD_STREAM or os.path.isdir(output) or not ending else ending


class IncompleteError(Exception):
    """A result was written, but part of its input is lost.

    Its text is the line to print.
    """


def convert(jobs: Sequence[Job], work: Callable[[Job], str], options: OutputOptions, *, label: str) -> None:
    """Run `work` for each job and print the line that it returns.

    Work that raises IncompleteError has written a result, and counts as failed. A failed file is reported and the
    remaining files are processed. The exit status is then 1, or 2 if all failures are due to the options.
    """
    failures: list[Exception] = []
    on_stderr = any(job.target == STANDARD_STREAM for job in jobs)
    with reporting(len(jobs), label=label, quiet=options.quiet, on_stderr=on_stderr) as reporter:
        for job in jobs:
            try:
                if options.skip_existing and os.path.lexists(job.target):
                    reporter.result(f"{display_name(job.target)}: exists, skipped")
                else:
                    refuse_existing(job.target, force=options.force)
                    with warnings_as_lines(reporter.error, job.source):
                        line = work(job)
                    reporter.result(line)
            except IncompleteError as partial:
                reporter.result(str(partial))
                failures.append(partial)
            except Exception as error:  # whatever it is, the other files are processed
                reporter.error(explain(error, job.source))
                failures.append(error)
            reporter.step()
        if failures and len(jobs) > 1:
            reporter.error(f"{len(failures)} of {len(jobs)} files failed")
    if failures or reporter.failed:
        wrong_use = failures and all(isinstance(error, OptionError) for error in failures)
        raise click.exceptions.Exit(2 if wrong_use else 1)


def image_source(source: str) -> str | BinaryIO:
    """Return the path of an image, or a buffer with all of standard input for `-`."""
    if source != STANDARD_STREAM:
        return source
    stream = io.BytesIO(read_bytes(source))
    stream.name = "standard input"  # error messages of the library show it
    return cast(BinaryIO, stream)
