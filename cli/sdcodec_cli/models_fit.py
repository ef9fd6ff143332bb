"""`sdcodec models fit`: a learned prior for the latents of a model."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(no_args_is_help=True)
@click.argument("name")
@click.option(
    "--images",
    "folders",
    metavar="FOLDER",
    required=True,
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Photographs to learn from, searched through (repeatable).",
)
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="How long it may take.  [default: 10]")
@click.option("--steps", type=click.IntRange(1), help="So many steps instead, whatever they take.")
@click.option("--pictures", type=click.IntRange(2), help="At most so many photographs.  [default: as time allows]")
@click.option("--width", type=click.IntRange(4), default=64, show_default=True, help="Channels of the network.")
@click.option("--blocks", type=click.IntRange(0), default=1, show_default=True, help="Its residual blocks.")
@click.option("--seed", type=int, default=1, show_default=True, help="Another gives another network.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
@click.option("--force", is_flag=True, help="Keep the result even if it is no better than what the model has.")
@click.option("--quiet", is_flag=True, help="Say nothing of the progress.")
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
    """Train a prior for the latents of the model NAME: smaller files.

    The autoencoder stays as it is, and so do pictures; what it learns is what
    its latents are like. New files are coded with the new prior; files that
    were coded before still decode. Ctrl-C leaves the model as it was.

    \b
    Examples:
      sdcodec models fit sd15 --images photos/
      sdcodec models fit sd15 --images photos/ --minutes 30 --width 96 --blocks 2
    """
    if minutes is not None and steps is not None:
        raise click.UsageError("--minutes and --steps exclude each other; give one of them.")
    from sdcodec.bundles import store
    from sdcodec.training.prior_fit import FitConfig, fit_prior

    config = FitConfig(
        minutes=minutes or 10.0,
        steps=steps or 0,
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
        say=(lambda _: None) if quiet else (lambda line: click.echo(line, err=True)),
    )
    change = fitted.bits / fitted.bits_before - 1
    click.echo(
        f"{name}: {fitted.steps} steps on {fitted.pictures} photographs; {change:+.1%} bits on those kept for "
        f"validation; fingerprint {fitted.bundle.priors[0].fingerprint.hex()[:8]}"
    )
