"""Command `sdcodec info`: header and chunks of `.sdc` files."""

from __future__ import annotations

import json
from typing import Any

import click

from sdcodec.files import STANDARD_STREAM
from sdcodec_cli.inputs import expanded, parsed
from sdcodec_cli.messages import display_name, for_each_file, printable


@click.command(no_args_is_help=True)
@click.argument("files", metavar="FILE...", nargs=-1, required=True, callback=expanded)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per file, each on a line.")
@click.option("--symbols", is_flag=True, help="Add a digest of the decoded symbols; this needs the model.")
def info(files: tuple[str, ...], as_json: bool, symbols: bool) -> None:
    """Show the header and the chunks of .sdc files.

    symbols_sha256 is the same on every machine: equal digests show that a file
    decodes to the same symbols on both.
    """

    def described(name: str) -> str:
        values = _describe(name, symbols)
        return json.dumps(values) if as_json else _as_text(values)

    for_each_file(files, described)


def _describe(name: str, symbols: bool) -> dict[str, Any]:
    from sdcodec.bundles.store import COMPLEXITY, by_fingerprint

    data, container = parsed(name)
    header = container.header
    model = by_fingerprint(header.fingerprint)
    values: dict[str, Any] = {
        "file": display_name(name, stream="standard input") if name == STANDARD_STREAM else name,
        "bytes": len(data),
        "version": header.version,
        "fingerprint": header.fingerprint.hex(),
        "model": None if model is None else model.name,
        COMPLEXITY: None if model is None else model.description.get(COMPLEXITY),
        "realism": None if model is None else model.default_realism,
        "quality": header.quality_index / 2,
        "width": header.width,
        "height": header.height,
        "bpp": 8 * len(data) / (header.width * header.height),
        "blocks": [len(block) for block in container.blocks],
        "chunks": [{"tag": c.tag, "name": c.name, "bytes": len(c.payload)} for c in container.chunks()],
    }
    if symbols:
        from sdcodec import Codec

        values["symbols_sha256"] = Codec.for_file(data).symbols_sha256(data)
    return values


def _as_text(values: dict[str, Any]) -> str:
    model = values["model"] or "not installed here"
    lines = [
        f"{printable(values['file'])}: {values['width']} x {values['height']}, {values['bytes']} bytes, "
        f"{values['bpp']:.4g} bpp",
        f"  format version {values['version']}, quality {values['quality']:g}, "
        f"model {model} (fingerprint {values['fingerprint']})",
        f"  {len(values['blocks'])} block{'s' if len(values['blocks']) != 1 else ''}; chunks: "
        + ", ".join(f"{c['name']} ({c['tag']}) {c['bytes']} bytes" for c in values["chunks"]),
    ]
    if complexity := values["kmac_per_pixel"]:
        counts = ", ".join(f"{part} {count:g}" for part, count in complexity.items())
        lines.insert(2, f"  kMAC per pixel: {counts}")
    if values["realism"] is not None:
        lines.insert(-1, f"  realism {values['realism']:g} by default")
    if "symbols_sha256" in values:
        lines.append(f"  symbols_sha256 {values['symbols_sha256']}")
    return "\n".join(lines)
