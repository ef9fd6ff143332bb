"""`sdcodec decode`: `.sdc` files to image files."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import click

from sdcodec.files import STANDARD_STREAM, Job, read_bytes, write_bytes
from sdcodec_cli.conversion import Manner, conversion_options, convert, plan_or_usage_error
from sdcodec_cli.messages import display_name

if TYPE_CHECKING:
    from sdcodec import Codec

FORMATS = ("png", "webp", "tiff", "tif", "bmp", "ppm", "jpeg", "jpg", "avif")  # sdcodec.pixels.SAVE_FORMATS


def _extension(output: str, chosen: str | None) -> str:
    """The format asked for, or else the one that the output's name asks for, or else PNG."""
    if chosen is not None:
        return chosen
    ending = os.path.splitext(output)[1].lower().removeprefix(".")
    if output == STANDARD_STREAM or os.path.isdir(output) or not ending:
        return "png"
    if ending not in FORMATS:
        raise click.UsageError(
            f"{output}: .{ending} is no format that can be written; choose from {', '.join(FORMATS)}."
        )
    return ending


@click.command(no_args_is_help=True)
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
@click.option("-o", "--output", metavar="OUTPUT", required=True, help="A file, a folder, or - (standard output).")
@click.option(
    "--format",
    "image_format",
    type=click.Choice(FORMATS, case_sensitive=False),
    metavar="png|webp|...",
    help=f"One of {', '.join(FORMATS)}.  [default: what OUTPUT ends in, or png]",
)
@click.option("--model", metavar="NAME|FOLDER", help="The model that encoded.  [default: the one that the file names]")
@conversion_options
def decode(
    inputs: tuple[str, ...],
    output: str,
    image_format: str | None,
    model: str | None,
    device: str,
    precision: str,
    max_pixels: int,
    force: bool,
    skip_existing: bool,
    verbose: bool,
    quiet: bool,
) -> None:
    """Decode .sdc files to images.

    INPUT is an .sdc file, or - for standard input. With several of them OUTPUT
    is a folder that exists, and each file is called as its input is, with .png
    or what --format says.

    \b
    Examples:
      sdcodec decode photo.sdc -o photo.png
      sdcodec decode encoded/*.sdc -o decoded/ --format webp
      sdcodec decode - -o - < photo.sdc > photo.png
    """
    manner = Manner(force, skip_existing, verbose, quiet)
    extension = _extension(output, image_format)
    jobs = plan_or_usage_error(inputs, output, extension)

    from sdcodec.container import Container
    from sdcodec.pixels import to_image_file

    loaded: list[Codec] = []  # the last one: neighbouring files are likely to be of one model

    def codec_for(data: bytes) -> Codec:
        if not loaded or loaded[-1].fingerprint != Container.from_bytes(data).header.fingerprint:
            from sdcodec import Codec

            loaded[:] = [Codec.for_file(data, model=model, device=device, precision=precision)]
        return loaded[-1]

    def work(job: Job) -> str:
        data = read_bytes(job.source)
        start = time.perf_counter()
        image = codec_for(data).decode(data, max_pixels=max_pixels)
        seconds = time.perf_counter() - start
        result = to_image_file(image, extension)
        write_bytes(job.target, result, force=force)
        told = f"{display_name(job.target)}: {image.width} x {image.height}, {seconds:.2f} s"
        return told + (f", {len(data)} -> {len(result)} bytes, model {loaded[-1].name}" if verbose else "")

    convert(jobs, work, manner, label="decoding")
