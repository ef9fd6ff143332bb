"""Command `sdcodec encode`: images to `.sdc` files."""

from __future__ import annotations

import math
import os
import time
import warnings
from dataclasses import dataclass
from typing import Any

import click

from sdcodec.bundles import store
from sdcodec.errors import OptionError
from sdcodec.files import STANDARD_STREAM
from sdcodec.options import MODES, metadata_kinds
from sdcodec_cli.batch import Result, Work
from sdcodec_cli.conversion import (
    DEFAULT_MAX_PIXELS,
    IMAGE_FORMATS,
    OutputOptions,
    conversion_options,
    file_arguments,
    image_source,
    named_format,
    plan_or_usage_error,
)
from sdcodec_cli.native_output import native_output_told
from sdcodec_cli.processing import convert
from sdcodec_cli.processors import limit_threads


def _metadata(ctx: click.Context, param: click.Parameter, value: str) -> frozenset[str]:
    try:
        return metadata_kinds(value)
    except OptionError as error:
        raise click.BadParameter(f"{error}.") from error


def _finite(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a finite number.")
    return value


@click.command(no_args_is_help=True)
@file_arguments
@click.option(
    "-q",
    "--quality",
    type=click.FloatRange(0, 100),
    callback=_finite,
    metavar="0..100",
    help="Quality in increments of 0.5; a higher value gives a larger file.  [default: 50]",
)
@click.option(
    "--bytes",
    "target_bytes",
    type=click.IntRange(min=1),
    metavar="N",
    help="Use the highest quality whose file has at most N bytes.",
)
@click.option(
    "--bpp",
    "target_bpp",
    type=click.FloatRange(min=0, min_open=True),
    callback=_finite,
    metavar="X",
    help="Use the highest quality whose file has at most X bits per pixel.",
)
@click.option(
    "--target-lpips",
    type=click.FloatRange(min=0, min_open=True),
    callback=_finite,
    metavar="X",
    help="Use the lowest quality whose LPIPS (AlexNet) is at most X; smaller is better.",
)
@click.option(
    "--target-psnr",
    type=click.FloatRange(min=0, min_open=True),
    callback=_finite,
    metavar="DB",
    help="Use the lowest quality whose PSNR is at least DB.",
)
@click.option(
    "--target-ssimulacra2",
    type=float,
    callback=_finite,
    metavar="X",
    help="Use the lowest quality whose SSIMULACRA 2 is at least X, up to 100; needs the package ssimulacra2.",
)
@click.option(
    "--effort",
    type=click.IntRange(0, 9),
    default=0,
    show_default=True,
    metavar="0..9",
    help="Encoding effort: 0 rounds, 1-3 optimise the rounding for rate, 4-9 refine by gradient descent, 2 to 64 steps.",
)
@click.option(
    "--mode",
    type=click.Choice(MODES),
    default="latents",
    show_default=True,
    help="palette: the experiment of 2022, up to 256 latent vectors with dithering.",
)
@click.option("--model", default=store.DEFAULT, show_default=True, metavar="NAME|FOLDER", help="Model to encode with.")
@click.option(
    "--metadata",
    callback=_metadata,
    default="none",
    show_default=True,
    metavar="none|all|icc,exif,xmp",
    help="Metadata to keep; without icc, colours are converted to sRGB.",
)
@click.option(
    "--frame",
    type=click.IntRange(min=0),
    metavar="N",
    help="Frame or page of the input, counted from 0.  [default: the first, with a warning if there are others]",
)
@click.option(
    "--allow-truncated",
    is_flag=True,
    help="Encode images whose file is cut short; the missing part is grey, black or transparent.",
)
@click.option("--skip-larger", is_flag=True, help="Do not write files that are larger than their input.")
@conversion_options(DEFAULT_MAX_PIXELS)
def encode(
    inputs: tuple[str, ...],
    output: str | None,
    recursive: bool,
    quality: float | None,
    target_bytes: int | None,
    target_bpp: float | None,
    target_lpips: float | None,
    target_psnr: float | None,
    target_ssimulacra2: float | None,
    effort: int,
    mode: str,
    model: str,
    metadata: frozenset[str],
    frame: int | None,
    allow_truncated: bool,
    skip_larger: bool,
    device: str,
    precision: str,
    max_pixels: int,
    options: OutputOptions,
) -> None:
    """Encode images to .sdc files.

    INPUT is an image file, a folder (its images, sorted by name), or - for
    standard input. In a folder OUTPUT, and beside the inputs without -o, each
    file gets the name of its image, with the extension .sdc.

    Exit status: 0 success (also if all files are skipped), 1 a file failed,
    2 wrong usage, 130 interrupted.

    \b
    Examples:
      sdcodec encode photo.jpg
      sdcodec encode photo.jpg -o photo.sdc --bytes 5000
      sdcodec encode photos/ -o encoded/ --recursive --workers 2
      sdcodec encode photos/*.jpg -o encoded/ -q 70 --metadata exif,icc
      convert photo.tif png:- | sdcodec encode - -o - --bpp 0.2 > photo.sdc
    """
    targets = {"target_lpips": target_lpips, "target_psnr": target_psnr, "target_ssimulacra2": target_ssimulacra2}
    wanted = [value for value in (quality, *targets.values()) if value is not None]
    if len(wanted) + (target_bytes is not None) + (target_bpp is not None) > 1:
        raise click.UsageError("-q, --bytes, --bpp and the --target-... options exclude each other.")
    if mode == "palette" and (wanted or effort):
        raise click.UsageError(
            "--mode palette excludes -q, --target-... and --effort; --bytes and --bpp limit the number of vectors."
        )
    if output is not None and (ending := named_format(output)) in IMAGE_FORMATS:
        raise click.UsageError(
            f"{output}: encode writes .sdc data, and the name says .{ending}; "
            f"name it {os.path.splitext(output)[0]}.sdc, or use another program for .{ending}."
        )
    plan = plan_or_usage_error(inputs, output, "sdc", read=IMAGE_FORMATS, recursive=recursive)
    reading = {
        "metadata": metadata,
        "max_pixels": max_pixels,
        "frame": frame,
        "allow_truncated": allow_truncated,
    }
    settings = {
        "quality": quality,
        "target_bytes": target_bytes,
        "target_bpp": target_bpp,
        **targets,
        "effort": effort,
        "mode": mode,
    }
    task = _Encoding(model, device, precision, reading, settings, options.verbose)
    convert(plan, task, options, label="encoding", skip_larger=skip_larger)


@dataclass(frozen=True)
class _Encoding:
    """Task of encoding images.

    reading: the arguments that `read_picture` and `Codec.encode` share; settings: the others of `Codec.encode`.
    """

    model: str
    device: str
    precision: str
    reading: dict[str, Any]
    settings: dict[str, Any]
    verbose: bool

    def load(self, threads: int | None) -> Work:
        """Load the model."""
        import numpy as np
        from PIL import Image

        from sdcodec import Codec
        from sdcodec.measures import psnr
        from sdcodec.pixels import Picture, read_picture

        # --max-pixels replaces Pillow's own limit.
        max_pixels = Image.MAX_IMAGE_PIXELS = self.reading["max_pixels"]
        warnings.filterwarnings("ignore", module="PIL")
        limit_threads(threads)
        codec = Codec(self.model, device=self.device, precision=self.precision)

        def work(name: str) -> Result:
            source = image_source(name)
            start = time.perf_counter()
            with native_output_told("standard input" if name == STANDARD_STREAM else name):
                encoded = codec.encode(source, **self.reading, **self.settings)
            seconds = time.perf_counter() - start
            line = f"{len(encoded.data)} bytes, {encoded.bpp:.4g} bpp, {seconds:.2f} s"
            if self.verbose:
                if not isinstance(source, str):
                    source.seek(0)
                original = read_picture(source, **self.reading)
                decoded = np.asarray(codec.decode(encoded.data, max_pixels=max_pixels).convert("RGB"))
                decibels = psnr(original.over_white(), Picture(decoded, original.alpha).over_white())
                line += f", {encoded.width} x {encoded.height}, quality {encoded.quality:g}, PSNR {decibels:.2f} dB"
            size = os.path.getsize(source) if isinstance(source, str) else source.seek(0, os.SEEK_END)
            pixels = encoded.width * encoded.height
            return Result(encoded.data, line, pixels, size, larger=len(encoded.data) > size)

        return work
