"""Command `sdcodec verify`: check `.sdc` files for damage."""

from __future__ import annotations

import click

from sdcodec_cli.inputs import expanded, parsed
from sdcodec_cli.messages import display_name, for_each_file


@click.command(no_args_is_help=True)
@click.argument("files", metavar="FILE...", nargs=-1, required=True, callback=expanded)
def verify(files: tuple[str, ...]) -> None:
    """Check .sdc files for damage, without decoding them.

    The header, the geometry, all chunks and all checksums are checked; the
    model is not needed. The exit status is 1 if any file is damaged.

    \b
    Examples:
      sdcodec verify encoded/*.sdc
      sdcodec verify - < photo.sdc
    """
    for_each_file(files, _checked)


def _checked(name: str) -> str:
    from sdcodec.bundles.store import by_fingerprint

    data, container = parsed(name)
    header = container.header
    model = by_fingerprint(header.fingerprint)
    known = (
        f"model {model.name}" if model else f"its model (fingerprint {header.fingerprint.hex()}) is not installed here"
    )
    shown = display_name(name, stream="standard input")
    return f"{shown}: OK, {header.width} x {header.height}, {len(data)} bytes, {known}"
