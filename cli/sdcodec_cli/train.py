"""Command `sdcodec train`: run a training recipe."""

from __future__ import annotations

import json
from pathlib import Path

import click

from sdcodec_cli.messages import say


@click.command(no_args_is_help=True)
@click.argument("recipe", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--data",
    "folders",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Folder of photographs, searched with its subfolders (repeatable).",
)
@click.option(
    "--vgg",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="VGG-16's weights (.safetensors or .pth), needed by LPIPS-VGG and DISTS.",
)
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="Length of the run, without warming up.")
@click.option("--steps", type=click.IntRange(min=1), help="Length of the run in training steps.")
@click.option(
    "--stage",
    type=click.Choice(["all", "codec", "realism", "previews"]),
    help="Part of the training: the codec; with its files kept valid, the decoder's realism, or its heads for reduced "
    "images; or one after the other.  [default: that of RECIPE]",
)
@click.option("--from", "source", metavar="BUNDLE", help="Start from a model, by its name or folder.")
@click.option("--resume", is_flag=True, help="Continue the run in the output folder.")
@click.option("--export", is_flag=True, help="Write the model of a run that was cut, without training.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override a setting of RECIPE (repeatable)."
)
def train(
    recipe: Path,
    folders: tuple[Path, ...],
    vgg: Path | None,
    minutes: float | None,
    steps: int | None,
    stage: str | None,
    source: str | None,
    resume: bool,
    export: bool,
    settings: tuple[str, ...],
) -> None:
    """Train a model as described by RECIPE, a TOML file.

    The output folder that RECIPE names receives checkpoints, a log (CSV) and,
    at the end, the model as a folder for --model. Ctrl-C saves a checkpoint and
    stops; --resume continues from it; --export writes the model from the averaged
    weights that the last checkpoint left in the output folder, or of several stages
    in that of the last one; --from then says where the first model is now, if a
    run that keeps its files was copied here.

    \b
    Examples:
      sdcodec train recipes/base.toml --data photos --vgg vgg16.pth --minutes 25
      sdcodec train recipes/base.toml --data photos --steps 2000 --from base \\
        --stage realism --vgg vgg16.pth
      sdcodec train recipes/base.toml --data photos --minutes 25 --resume
      sdcodec train recipes/base.toml --data photos --export
    """
    if minutes is not None and steps is not None:
        raise click.UsageError("--minutes and --steps exclude each other.")
    overrides = _settings(settings)
    if folders:
        overrides["data"] = json.dumps([str(folder.resolve()) for folder in folders])
    if vgg is not None:
        overrides["vgg"] = json.dumps(str(vgg.resolve()))
    if minutes is not None or steps is not None:
        overrides |= {"minutes": str(float(minutes or 0)), "num_steps": str(steps or 0)}
    if stage is not None:
        overrides["stage"] = json.dumps(stage)
    if source is not None:
        overrides["start_from"] = json.dumps(str(Path(source).resolve()) if Path(source).exists() else source)

    if export and (resume or minutes is not None or steps is not None):
        raise click.UsageError("--export trains nothing: leave --minutes, --steps and --resume out.")
    from sdcodec.training.run import export_run
    from sdcodec.training.run import train as run

    if export:
        say(f"model in {export_run(recipe, overrides=overrides)}")
        return
    say(f"run in {run(recipe, resume=resume, overrides=overrides)}")


def _settings(settings: tuple[str, ...]) -> dict[str, str]:
    """Return the settings of `--set` as keys and TOML values."""
    overrides = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise click.UsageError(f"--set {setting!r}: not of the form KEY=VALUE.")
        overrides[key.strip()] = value.strip()
    return overrides
