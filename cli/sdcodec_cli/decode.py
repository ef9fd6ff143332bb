"""Command `sdcodec decode`: `.sdc` files to image files."""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import click

from sdcodec.files import read_bytes
from sdcodec_cli.batch import Result, Work
from sdcodec_cli.conversion import (
    DECODED_MAX_PIXELS,
    IMAGE_FORMATS,
    OutputOptions,
    conversion_options,
    file_arguments,
    named_format,
    plan_or_usage_error,
    rendering_options,
)
from sdcodec_cli.processing import convert
from sdcodec_cli.processors import limit_threads

if TYPE_CHECKING:
    from pathlib import Path

    from sdcodec import Codec

FORMATS = ("png", "webp", "tiff", "tif", "bmp", "ppm", "jpeg", "jpg", "avif")  # as sdcodec.pixels.SAVE_FORMATS
SAME = {"jpg": "jpeg", "jfif": "jpeg", "jpe": "jpeg", "tif": "tiff", "pnm": "ppm"}


def _extension(output: str | None, chosen: str | None) -> str:
    """Return the output format: `--format`, the extension of OUTPUT, or png."""
    ending = named_format(output)
    if chosen is not None:
        if ending in {*FORMATS, *IMAGE_FORMATS, "sdc"} and SAME.get(ending, ending) != SAME.get(chosen, chosen):
            raise click.UsageError(f"{output}: the name says .{ending}, and --format says {chosen}; choose one.")
        return chosen
    if ending is None:
        return "png"
    if ending not in FORMATS:
        raise click.UsageError(f"{output}: the format .{ending} cannot be written; choose from {', '.join(FORMATS)}.")
    return ending


def _strength(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Parse `--strength`; None stands for `auto`."""
    if value is None or value == "auto":
        return None
    try:
        factor = float(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is neither auto nor a number; give auto or a factor >= 0.") from error
    if not 0 <= factor < math.inf:
        raise click.BadParameter(f"{value} is out of range; give a finite factor >= 0.")
    return factor


@click.command(no_args_is_help=True)
@file_arguments
@click.option(
    "--format",
    "image_format",
    type=click.Choice(FORMATS, case_sensitive=False),
    metavar="png|webp|...",
    help=f"Image format: {', '.join(FORMATS)}.  [default: extension of OUTPUT, or png]",
)
@click.option("--model", metavar="NAME|FOLDER", help="Model of the file.  [default: the model that the file names]")
@rendering_options
@click.option(
    "--recover",
    is_flag=True,
    help="Decode what is intact of a damaged or cut file; lost blocks are filled from around them. Exit status 1.",
)
@click.option(
    "--denoise",
    type=click.IntRange(min=0),
    metavar="STEPS",
    help="Number of denoising steps with the model's UNet: 1 to 4 for turbo models, more for others.  [default: 0, off]",
)
@click.option(
    "--strength",
    callback=_strength,
    metavar="auto|X",
    help="With --denoise: factor >= 0 for the noise level, relative to the measured error.  [default: auto, 1]",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    metavar="N",
    help="With --denoise: seed of the noise that turbo models add.  [default: 0]",
)
@click.option("--offload", is_flag=True, help="With --denoise: keep the UNet's weights in main memory, for small GPUs.")
@conversion_options(DECODED_MAX_PIXELS)
def decode(
    inputs: tuple[str, ...],
    output: str | None,
    recursive: bool,
    image_format: str | None,
    model: str | None,
    realism: float | None,
    scale: str,
    recover: bool,
    denoise: int | None,
    strength: float | None,
    seed: int | None,
    offload: bool,
    device: str,
    precision: str,
    max_pixels: int,
    options: OutputOptions,
) -> None:
    """Decode .sdc files to images.

    INPUT is an .sdc file, a folder (its .sdc files, sorted by name), or - for
    standard input. In a folder OUTPUT, and beside the inputs without -o, each
    image gets the name of its input, with the extension .png or that of
    --format.

    Exit status: 0 success (also if all files are skipped), 1 a file failed,
    2 wrong usage, 130 interrupted.

    \b
    Examples:
      sdcodec decode photo.sdc -o photo.png
      sdcodec decode encoded/ -o decoded/ --format webp
      sdcodec decode - -o - < photo.sdc > photo.png
      sdcodec decode photo.sdc -o photo.png --denoise 4
      sdcodec decode encoded/*.sdc -o previews/ --scale 1/8
    """
    if denoise is None and (strength is not None or seed is not None or offload):
        raise click.UsageError("--strength, --seed and --offload need --denoise.")
    extension = _extension(output, image_format)
    plan = plan_or_usage_error(inputs, output, extension, read={"sdc"}, recursive=recursive)
    settings = {
        "max_pixels": max_pixels,
        "realism": realism,
        "scale": Fraction(scale),
        "recover": recover,
        "denoise": denoise or 0,
        "strength": strength,
        "seed": seed or 0,
    }
    task = _Decoding(model, device, precision, offload, extension, settings, options.verbose)
    convert(plan, task, options, label="decoding")


@dataclass(frozen=True)
class _Decoding:
    """Task of decoding `.sdc` files to images.

    extension: of the images, without a dot; settings: arguments of `Codec.decode`.
    """

    model: str | None
    device: str
    precision: str
    offload: bool
    extension: str
    settings: dict[str, Any]
    verbose: bool

    def load(self, threads: int | None) -> Work:
        """Return the work; it loads models as the files name them."""
        from sdcodec.bundles import store
        from sdcodec.container import MAGIC, Container, read_header
        from sdcodec.pixels import to_image_file

        warnings.filterwarnings("ignore", module="PIL")  # about damaged EXIF, while a TIFF is written
        loaded: dict[Path, Codec] = {}  # holds one codec: neighbouring files mostly share a model

        def codec_for(data: bytes) -> Codec:
            folder = store.that_wrote(read_header(data)[0].fingerprint, self.model).folder
            if folder not in loaded:
                from sdcodec import Codec

                limit_threads(threads)
                loaded.clear()  # free its memory before loading the next one
                loaded[folder] = Codec(folder, device=self.device, precision=self.precision, offload=self.offload)
            return loaded[folder]

        def work(source: str) -> Result:
            data = read_bytes(source, MAGIC)
            codec = codec_for(data)
            start = time.perf_counter()
            image = codec.decode(data, **self.settings)
            seconds = time.perf_counter() - start
            result = to_image_file(image, self.extension)
            line = f"{image.width} x {image.height}, {seconds:.2f} s"
            line += f", {len(data)} -> {len(result)} bytes, model {codec.name}" if self.verbose else ""
            incomplete = bool(self.settings["recover"] and Container.from_bytes(data, recover=True).lost)
            return Result(result, line, image.width * image.height, len(data), incomplete=incomplete)

        return work
