"""`sdcodec decode`: `.sdc` files to image files."""

from __future__ import annotations

import math
import os
import time
from typing import TYPE_CHECKING

import click

from sdcodec.files import STANDARD_STREAM, Job, read_bytes, write_bytes
from sdcodec_cli.conversion import Manner, conversion_options, convert, plan_or_usage_error
from sdcodec_cli.messages import display_name

if TYPE_CHECKING:
    from pathlib import Path

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


def _strength(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """None is what the measured error says, which is what `auto` asks for."""
    if value is None or value == "auto":
        return None
    try:
        factor = float(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is neither auto nor a number.") from error
    if not 0 <= factor < math.inf:
        raise click.BadParameter(f"{value} is not a factor from 0 up.")
    return factor


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
@click.option(
    "--denoise",
    type=click.IntRange(min=0),
    metavar="STEPS",
    help="Clean the latents with the model's UNet: 1 to 4 steps for turbo models, more for others.  [default: 0, off]",
)
@click.option(
    "--strength",
    callback=_strength,
    metavar="auto|X",
    help="For --denoise: times X the error that was measured; auto is 1.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    metavar="N",
    help="For --denoise: of the noise that turbo models add.  [default: 0]",
)
@click.option("--offload", is_flag=True, help="For --denoise on a small GPU: the UNet's weights stay in main memory.")
@conversion_options
def decode(
    inputs: tuple[str, ...],
    output: str,
    image_format: str | None,
    model: str | None,
    denoise: int | None,
    strength: float | None,
    seed: int | None,
    offload: bool,
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
      sdcodec decode photo.sdc -o photo.png --denoise 4
    """
    manner = Manner(force, skip_existing, verbose, quiet)
    if denoise is None and (strength is not None or seed is not None or offload):
        raise click.UsageError("--strength, --seed and --offload belong to --denoise.")
    extension = _extension(output, image_format)
    jobs = plan_or_usage_error(inputs, output, extension)

    from sdcodec.bundles import store
    from sdcodec.container import Container
    from sdcodec.pixels import to_image_file

    loaded: dict[Path, Codec] = {}  # the last one: neighbouring files are likely to be of one model

    def codec_for(data: bytes) -> Codec:
        folder = store.that_wrote(Container.from_bytes(data).header.fingerprint, model).folder
        if folder not in loaded:
            from sdcodec import Codec

            loaded.clear()  # before the next one takes its memory
            loaded[folder] = Codec(folder, device=device, precision=precision, offload=offload)
        return loaded[folder]

    def work(job: Job) -> str:
        data = read_bytes(job.source)
        start = time.perf_counter()
        codec = codec_for(data)
        image = codec.decode(data, max_pixels=max_pixels, denoise=denoise or 0, strength=strength, seed=seed or 0)
        seconds = time.perf_counter() - start
        result = to_image_file(image, extension)
        write_bytes(job.target, result, force=force)
        told = f"{display_name(job.target)}: {image.width} x {image.height}, {seconds:.2f} s"
        return told + (f", {len(data)} -> {len(result)} bytes, model {codec.name}" if verbose else "")

    convert(jobs, work, manner, label="decoding")
