"""Command `sdcodec show`: `.sdc` files in the desktop's image viewer."""

from __future__ import annotations

import os
import sys
from fractions import Fraction

import click

from sdcodec.errors import OutputError
from sdcodec.files import read_bytes
from sdcodec_cli.conversion import rendering_options
from sdcodec_cli.inputs import expanded
from sdcodec_cli.messages import display_name, for_each_file


@click.command(no_args_is_help=True)
@click.argument("files", metavar="FILE...", nargs=-1, required=True, callback=expanded)
@rendering_options
def show(files: tuple[str, ...], realism: float | None, scale: str) -> None:
    """Show .sdc files in the image viewer of the desktop.

    The viewer gets a temporary PNG file. Without a desktop this is an error;
    `sdcodec decode` writes the image to a file instead.

    \b
    Examples:
      sdcodec show photo.sdc
      sdcodec show encoded/*.sdc --scale 1/4
    """
    if sys.platform not in ("darwin", "win32") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise OutputError("no desktop to show images on; write them to files with sdcodec decode")

    def shown(name: str) -> str:
        from PIL import ImageShow

        import sdcodec
        from sdcodec.container import MAGIC

        image = sdcodec.decode(read_bytes(name, MAGIC), realism=realism, scale=Fraction(scale))
        title = display_name(name, stream="standard input")
        if not ImageShow.show(image, title=title):
            raise OutputError("no program that shows images was found; install one, such as xdg-utils, or use decode")
        return f"{title}: {image.width} x {image.height}"

    for_each_file(files, shown)
