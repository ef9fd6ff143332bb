"""Common arguments and options of `encode` and `decode`."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from typing import Any, BinaryIO, TypeVar, cast

import click

from sdcodec.errors import OptionError
from sdcodec.files import STANDARD_STREAM, read_bytes
from sdcodec_cli.inputs import expanded, find
from sdcodec_cli.messages import display_name, say_error
from sdcodec_cli.planning import Plan, plan

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
    """Options for output files, for the amount of output, and for processes.

    workers: None for this process alone; threads: CPU threads of each, None for the default.
    """

    force: bool
    skip_existing: bool
    keep_times: bool
    dry_run: bool
    workers: int | None
    threads: int | None
    progress: bool
    verbose: bool
    quiet: bool

    def __post_init__(self) -> None:
        if self.force and self.skip_existing:
            raise click.UsageError("--force and --skip-existing exclude each other.")
        if self.verbose and self.quiet:
            raise click.UsageError("--verbose and --quiet exclude each other.")


def file_arguments(command: Command) -> Command:
    """Add the argument INPUT... and the options --output and --recursive to a command."""
    return with_parameters(
        command,
        click.argument("inputs", metavar="INPUT...", nargs=-1, required=True, callback=expanded),
        click.option(
            "-o",
            "--output",
            metavar="OUTPUT",
            help="A file, a folder, or - (standard output). A folder is made if OUTPUT ends in / or there are several "
            "inputs.  [default: beside each input]",
        ),
        click.option(
            "-r", "--recursive", is_flag=True, help="Read subfolders of folders, and keep the tree in OUTPUT."
        ),
    )


def rendering_options(command: Command) -> Command:
    """Add the options --realism and --scale to a command."""
    return with_parameters(
        command,
        click.option(
            "--realism",
            type=click.FloatRange(0, 1),
            metavar="0..1",
            help="From 0, faithful, to 1, vivid, for models that have it.  [default: that of the model]",
        ),
        click.option(
            "--scale",
            type=click.Choice(["1", "1/2", "1/4", "1/8"]),
            default="1",
            show_default=True,
            help="Size of the image relative to the original.",
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
            click.option(
                "--workers",
                type=click.IntRange(min=1),
                metavar="N",
                help="Work on N files at once, in processes that load the model each.  [default: 1]",
            ),
            click.option(
                "--threads",
                type=click.IntRange(min=1),
                metavar="N",
                help="CPU threads of each worker.  [default: 1 with --workers, else all that are available]",
            ),
            click.option("--force", is_flag=True, help="Replace existing files.  [default: they fail]"),
            click.option("--skip-existing", is_flag=True, help="Skip inputs whose output exists."),
            click.option("--keep-times", is_flag=True, help="Give each output the modification time of its input."),
            click.option("--dry-run", is_flag=True, help="Show the inputs and outputs; read and write nothing."),
            click.option("--no-progress", "progress", flag_value=False, default=True, help="Show no progress."),
            click.option("-v", "--verbose", is_flag=True, help="Print more about each file."),
            click.option("--quiet", is_flag=True, help="Print errors only."),
        )

    return decorator


def with_parameters(command: Command, *parameters: Callable[[Command], Command]) -> Command:
    """Apply click's decorators so that --help lists them in the given order."""
    for parameter in reversed(parameters):
        command = parameter(command)
    return command


def plan_or_usage_error(
    inputs: Sequence[str], output: str | None, extension: str, *, read: Collection[str], recursive: bool
) -> Plan:
    """Find the files of a command, and plan and check their outputs.

    read: extensions of the files that a folder stands for. Raises UsageError for contradictory arguments, OutputError
    for an output that cannot be written, OSError for a folder that cannot be read.
    """
    found = find(inputs, read, recursive=recursive, output=output)
    if not found:
        hint = "" if recursive else "; --recursive reads subfolders"
        say_error(f"{', '.join(map(display_name, inputs))}: warning: no files to read{hint}")
    try:
        planned = plan(found, output, extension)
    except OptionError as error:
        raise click.UsageError(f"{error}.") from error
    planned.check()
    return planned


def named_format(output: str | None) -> str | None:
    """Return the extension of an output file, lower-case and without a dot.

    It is None for a name without extension, a folder, `-` or None.
    """
    if output is None or output == STANDARD_STREAM or os.path.isdir(output):
        return None
    return os.path.splitext(output)[1].lower().removeprefix(".") or None


def image_source(source: str) -> str | BinaryIO:
    """Return the path of an image, or a buffer with all of standard input for `-`."""
    if source != STANDARD_STREAM:
        return source
    stream = io.BytesIO(read_bytes(source))
    stream.name = "standard input"  # error messages of the library show it
    return cast(BinaryIO, stream)
