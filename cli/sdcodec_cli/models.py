"""Command `sdcodec models`: list, show, add and remove models."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdcodec_cli.messages import display_name, say
from sdcodec_cli.models_fit import fit

if TYPE_CHECKING:
    from sdcodec.bundles.store import Bundle


@click.group(no_args_is_help=True)
def models() -> None:
    """List, add and remove models.

    Added models are stored in $SDCODEC_HOME (default: a folder in the user's
    data folder). A file identifies its model by fingerprint, so a model may be
    renamed.
    """


models.add_command(fit)


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per model, each on a line.")
def list_models(as_json: bool) -> None:
    """List the installed models."""
    from sdcodec.bundles.store import installed

    rows = [_summary(bundle) for bundle in installed()]
    if as_json:
        for row in rows:
            say(json.dumps(row))
        return
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        say(
            f"{row['name']:{width}}  {row['latents']}, {row['family']}, prior {row['priors'][0]}"
            f"{', UNet' if row['unet'] else ''}, {row['megabytes']:.1f} MB, {row['licence']}"
        )


@models.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show(name: str, as_json: bool) -> None:
    """Show the properties of the model NAME, or of a folder."""
    from sdcodec.bundles.store import find

    bundle = find(name)
    values = _summary(bundle) | {"description": bundle.description, "configuration": bundle.configuration}
    if as_json:
        say(json.dumps(values))
        return
    say(f"{values['name']}: {values['latents']}, {values['family']}, {values['megabytes']:.1f} MB")
    say(f"  folder       {display_name(values['folder'])}")
    for key, value in bundle.description.items():
        shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        say(f"  {key:12} {shown}")
    for kind, fingerprint in zip(values["priors"], values["fingerprints"], strict=True):
        say(f"  prior        {kind}, fingerprint {fingerprint}")
    if values["realism"] is not None:
        say(f"  realism      {values['realism']:g} by default: decode --realism 0..1 works")
    if bundle.configuration.get("reduced"):
        say("  reduced      decode --scale 1/4 and 1/8 need a part of the decoder only")
    say(f"  UNet         {'yes: decode --denoise works' if values['unet'] else 'no'}")


@models.command(no_args_is_help=True)
@click.argument("name")
@click.option(
    "--from", "source", metavar="FOLDER|HUB_ID", required=True, help="A diffusers folder, or OWNER/NAME on the hub."
)
@click.option("--unet", is_flag=True, help="Add the UNet too, for decode --denoise.")
@click.option("--revision", metavar="R", help="Branch, tag or commit on the hub.")
@click.option("--subfolder", metavar="S", help="Folder of the autoencoder.  [default: vae, or the folder itself]")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    help="Number format of the stored weights.  [default: unchanged]",
)
@click.option(
    "--calibrate",
    metavar="FOLDER",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Photographs to calibrate the quantiser's steps on.  [default: synthetic images]",
)
@click.option("--force", is_flag=True, help="Replace an existing model of this name.")
def add(
    name: str,
    source: str,
    unet: bool,
    revision: str | None,
    subfolder: str | None,
    dtype: str | None,
    calibrate: Path | None,
    force: bool,
) -> None:
    """Add a model made of an autoencoder in the format of diffusers.

    FOLDER holds a pipeline (with a folder vae/) or an autoencoder alone:
    AutoencoderKL, AutoencoderTiny, AutoencoderDC or AutoencoderKLFlux2. Only
    safetensors files are read. The command needs: pip install 'sdcodec[sd]'

    \b
    Examples:
      sdcodec models add sd15 --from ./stable-diffusion-v1-5 --unet
      sdcodec models add taesd --from madebyollin/taesd --dtype float16
    """
    from sdcodec.bundles import importing

    bundle = importing.add(
        name,
        source,
        unet=unet,
        revision=revision,
        subfolder=subfolder,
        dtype=dtype,
        calibrate=calibrate,
        force=force,
    )
    row = _summary(bundle)
    say(f"{name}: {row['latents']}, {row['family']}, {row['megabytes']:.1f} MB, in {row['folder']}")
    say(f"licence of the weights: {row['licence']}")


@models.command()
@click.argument("name")
@click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")
def remove(name: str, yes: bool) -> None:
    """Delete an added model.

    Files that were encoded with the model need it to be decoded. Priors that
    were fitted to it are deleted too.
    """
    from sdcodec.bundles import store

    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError(
                "standard input is not a terminal; give --yes to remove the model without confirmation."
            )
        click.confirm(f"Delete the model {name!r}?", abort=True)
    say(f"removed {display_name(str(store.remove(name)))}")


def _summary(bundle: Bundle) -> dict[str, Any]:
    """Return the properties of a model that `list` prints."""
    configuration = bundle.configuration
    channels, factor = configuration["latent_channels"], configuration.get("factor", 8)
    files = [path for path in bundle.folder.iterdir() if path.is_file()]
    return {
        "name": bundle.folder.name,
        "latents": f"{channels} channels at 1/{factor}",
        "family": configuration.get("family", bundle.autoencoder),
        "priors": [entry.kind for entry in bundle.priors],
        "fingerprints": [entry.fingerprint.hex()[:8] for entry in bundle.priors],
        "unet": bundle.denoiser is not None,
        "realism": bundle.default_realism,
        "megabytes": sum(path.stat().st_size for path in files) / 1e6,
        "licence": bundle.description.get("licence", "not stated"),
        "folder": str(bundle.folder),
    }
