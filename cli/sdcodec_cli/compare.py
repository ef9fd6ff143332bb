"""Command `sdcodec compare`: one image through several codecs at equal bytes."""

from __future__ import annotations

from pathlib import Path

import click

from sdcodec.files import atomic_write, check_outputs, refuse_existing
from sdcodec_cli.codec_choice import CodecChoice, codec_options, require_eval_packages
from sdcodec_cli.decode import FORMATS
from sdcodec_cli.messages import display_name, say, say_error
from sdcodec_cli.native_output import native_output_told


@click.command(no_args_is_help=True)
@click.argument("picture", metavar="INPUT", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--bytes",
    "budget",
    type=click.IntRange(min=1),
    default=5000,
    show_default=True,
    metavar="N",
    help="Byte budget of each file.",
)
@click.option("-o", "--output", required=True, metavar="OUTPUT", help="Image file to write: png, webp, avif or jpeg.")
@codec_options
@click.option("--columns", type=click.IntRange(min=1), metavar="N", help="Images per row.  [default: 3]")
@click.option("--force", is_flag=True, help="Replace an existing file.")
@click.option("--quiet", is_flag=True, help="Print errors only.")
def compare(
    picture: Path,
    budget: int,
    output: str,
    chosen: CodecChoice,
    columns: int | None,
    force: bool,
    quiet: bool,
) -> None:
    """Compare codecs on one image at equal bytes, in one labelled image.

    A codec that cannot take the image is left out, with a warning.

    \b
    Examples:
      sdcodec compare photo.jpg --bytes 5000 -o compare.png
      sdcodec compare photo.jpg -o compare.png --codecs sdcodec,avif --downscale 2
    """
    require_eval_packages()
    kind = Path(output).suffix[1:].lower()
    if kind not in FORMATS:
        raise click.UsageError(f"{output}: not the name of an image; end it with one of .{', .'.join(FORMATS)}.")
    refuse_existing(output, force=force)
    check_outputs([output])

    from sdcodec.pixels import to_image_file
    from sdcodec_eval.comparison import compare as run

    specs = chosen.specs()
    with native_output_told(str(picture)):
        comparison = run(picture, budget, specs, chosen.crop)
    for label, reason in comparison.left_out.items():
        say_error(f"{display_name(str(picture))}: warning: {label} is left out: {reason}")
    sheet = comparison.picture(columns or min(3, len(comparison.results) + 1))
    atomic_write(output, to_image_file(sheet, kind), force=force)
    if not quiet:
        say(comparison.table())
        say(f"comparison in {display_name(output)}")
