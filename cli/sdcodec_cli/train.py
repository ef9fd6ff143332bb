"""Command `sdcodec train`: run a training configuration."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(no_args_is_help=True)
@click.argument("config", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--resume", is_flag=True, help="Continue the run in the output folder.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override a setting of CONFIG (repeatable)."
)
def train(config: Path, resume: bool, settings: tuple[str, ...]) -> None:
    """Train a model as described by CONFIG, a TOML file.

    The output folder that CONFIG names receives checkpoints, a log (CSV) and,
    at the end, the model as a folder for --model. Ctrl-C saves a checkpoint and
    stops; --resume continues from it.

    \b
    Examples:
      sdcodec train recipes/base.toml
      sdcodec train recipes/base.toml --resume --set num_steps=20000
    """
    overrides = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise click.UsageError(f"--set {setting!r}: not of the form KEY=VALUE.")
        overrides[key.strip()] = value.strip()

    from sdcodec.training.run import train as run

    click.echo(f"run in {run(config, resume=resume, overrides=overrides)}")
