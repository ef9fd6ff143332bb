"""Command `sdcodec models fit`: train a learned prior for a model."""

from __future__ import annotations

from pathlib import Path

import click

from sdcodec_cli.messages import printable, say


@click.command(no_args_is_help=True)
@click.argument("name")
@click.option(
    "--images",
    "folders",
    metavar="FOLDER",
    required=True,
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of training photographs, with its subfolders (repeatable).",
)
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="Time limit in minutes.  [default: 10]")
@click.option("--steps", type=click.IntRange(1), help="Number of training steps, instead of --minutes.")
@click.option(
    "--pictures", type=click.IntRange(2), help="Maximum number of photographs.  [default: as many as the time allows]"
)
@click.option("--width", type=click.IntRange(4), default=64, show_default=True, help="Channels of the prior network.")
@click.option(
    "--blocks", type=click.IntRange(0), default=1, show_default=True, help="Residual blocks of the prior network."
)
@click.option("--seed", type=int, default=1, show_default=True, help="Random seed of the training.")
@click.option("--device", default="auto", show_default=True, help="Device of the training: auto, cpu, cuda or mps.")
@click.option("--force", is_flag=True, help="Keep the new prior even if it is no better than the present one.")
@click.option("--quiet", is_flag=True, help="Do not print progress.")
def fit(
    name: str,
    folders: tuple[Path, ...],
    minutes: float | None,
    steps: int | None,
    pictures: int | None,
    width: int,
    blocks: int,
    seed: int,
    device: str,
    force: bool,
    quiet: bool,
) -> None:
    """Fit a prior to the latents of the model NAME.

    New files use the new prior and become smaller; existing files still decode.
    The autoencoder does not change. Ctrl-C leaves the model unchanged.

    \b
    Examples:
      sdcodec models fit sd15 --images photos/
      sdcodec models fit sd15 --images photos/ --minutes 30 --width 96 --blocks 2
    """
    if minutes is not None and steps is not None:
        raise click.UsageError("--minutes and --steps exclude each other.")
    from sdcodec.bundles import store
    from sdcodec.training.prior_fit import FitConfig, fit_prior

    config = FitConfig(
        minutes=minutes or 10.0,
        num_steps=steps or 0,
        pictures=pictures or 0,
        width=width,
        blocks=blocks,
        seed=seed,
    )
    fitted = fit_prior(
        store.find(name),
        folders,
        config,
        device=device,
        only_if_better=not force,
        say=(lambda _: None) if quiet else (lambda line: click.echo(printable(line), err=True)),
    )
    change = fitted.bits / fitted.bits_before - 1
    say(
        f"{name}: {fitted.num_steps} steps on {fitted.pictures} photographs; {change:+.1%} bits on the validation "
        f"photographs; fingerprint {fitted.bundle.priors[0].fingerprint.hex()[:8]}"
    )
