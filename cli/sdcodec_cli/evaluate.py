"""Command `sdcodec eval`: compare codecs on images."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from sdcodec_cli.codec_choice import CodecChoice, codec_options, names, positive_integers, require_eval_packages
from sdcodec_cli.inputs import expanded
from sdcodec_cli.messages import say, say_error

DEFAULT_BUDGETS = "2500,5000,10000,20000"


@click.command("eval", no_args_is_help=True)
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True, callback=expanded)
@click.option("--out", required=True, metavar="DIR", type=click.Path(path_type=Path), help="Folder of the results.")
@codec_options
@click.option(
    "--bytes",
    "budgets",
    callback=positive_integers,
    metavar="N,...",
    help=f"Byte budgets.  [default: {DEFAULT_BUDGETS}]",
)
@click.option(
    "--quality",
    "qualities",
    multiple=True,
    metavar="[LABEL=]Q,...",
    help="Qualities instead of budgets, for all codecs or for LABEL (repeatable).",
)
@click.option(
    "--metrics",
    callback=names,
    default="psnr,psnr-y,ssim,ms-ssim,lpips",
    show_default=True,
    metavar="NAME,...",
    help="Metrics; further ones are lpips-vgg, dists, ssimulacra2.",
)
@click.option(
    "--lpips-vgg-weights",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Weights of VGG-16 for lpips-vgg and dists.  [default: torchvision's cache]",
)
@click.option(
    "--unreachable",
    type=click.Choice(["show", "lowest"]),
    default="show",
    show_default=True,
    help="If no quality meets the budget: leave the cell empty, or measure the lowest quality.",
)
@click.option("--anchor", metavar="LABEL", help="Anchor of the BD-rates.  [default: avif]")
@click.option("--no-ceiling", is_flag=True, help="Do not measure the unquantised round trip.")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Number of processes.")
@click.option("--resume", is_flag=True, help="Continue the run in DIR.")
@click.option("--force", is_flag=True, help="Replace the results in DIR.")
@click.option("--quiet", is_flag=True, help="Print errors only.")
def evaluate(
    inputs: tuple[str, ...],
    out: Path,
    chosen: CodecChoice,
    budgets: tuple[int, ...],
    qualities: tuple[str, ...],
    metrics: tuple[str, ...],
    lpips_vgg_weights: Path | None,
    unreachable: str,
    anchor: str | None,
    no_ceiling: bool,
    workers: int,
    resume: bool,
    force: bool,
    quiet: bool,
) -> None:
    """Compare codecs on images, at equal bytes or over qualities.

    INPUT is an image file or a folder, with its subfolders. At a byte budget,
    sdcodec is encoded first; each other codec uses its highest quality whose
    file is not longer than sdcodec's. DIR receives results.csv, results.json,
    environment.json, plots, the encoded files and a report.

    \b
    Examples:
      sdcodec eval kodak/ --crop 512 --out results/kodak-crops
      sdcodec eval kodak/ --quality 10,30,50,70,90 --out results/kodak
      sdcodec eval photos/ --out r --codecs sdcodec,avif --downscale 2
      sdcodec eval photos/ --out r --codec small=sdcodec,model=models/small
      sdcodec eval photos/ --out r --codec mine=my_module:MyCodec --resume
    """
    if budgets and qualities:
        raise click.UsageError("--bytes and --quality exclude each other.")
    if resume and force:
        raise click.UsageError("--resume and --force exclude each other.")
    if not metrics:
        raise click.UsageError("--metrics names no metric; name at least one.")
    require_eval_packages()

    from sdcodec_eval.pictures import collect
    from sdcodec_eval.plan import Plan, common_qualities
    from sdcodec_eval.report import write_report
    from sdcodec_eval.rows import ERROR
    from sdcodec_eval.run import evaluate as run
    from sdcodec_eval.tables import bd_rate_table, means_table

    specs = chosen.specs()
    if not budgets and not qualities:
        budgets = tuple(int(part) for part in DEFAULT_BUDGETS.split(","))
    plan = Plan(
        specs,
        budgets=budgets,
        qualities=common_qualities(specs, qualities) if qualities else {},
        crop=chosen.crop,
        metrics=metrics,
        vgg_weights=lpips_vgg_weights,
        unreachable=unreachable,
        ceiling=not no_ceiling,
    )
    sources = collect([Path(name) for name in inputs], apart_from=out)
    with _progress(quiet) as (begun, progress):
        summary = run(
            plan,
            sources,
            out,
            workers=workers,
            resume=resume,
            force=force,
            anchor=anchor,
            begun=begun,
            progress=progress,
        )
    if not quiet:  # before the report, which is slow because it decodes every file again
        say(means_table(summary))
        if bd_rates := bd_rate_table(summary):
            say(f"\n{bd_rates}")
        say(f"\nresults are in {out}; writing the report ...")
    report = write_report(out)
    if not quiet:
        say(f"report: {report}")
    failed = [row for row in summary.rows if row.status.startswith(ERROR)]
    for image, status in dict.fromkeys((row.image, row.status) for row in failed):
        reason = status.removeprefix(f"{ERROR}: ")
        say_error(reason if image in reason else f"{image}: {reason}")
    if failed:
        say_error(f"{len(failed)} of {len(summary.rows)} rows have errors")
        raise click.exceptions.Exit(1)


@contextmanager
def _progress(quiet: bool) -> Iterator[tuple[Callable[[int], None], Callable[[int], None]]]:
    """Yield the callbacks of a progress bar: total rows, further finished rows."""
    bars: list[Any] = []

    def begun(rows: int) -> None:
        if not quiet and rows and sys.stderr.isatty():
            bar = click.progressbar(length=rows, label="evaluating", file=sys.stderr, show_pos=True, show_eta=True)
            bars.append(bar.__enter__())
            bar.render_progress()

    def progress(rows: int) -> None:
        if bars and rows:
            bars[0].update(rows)

    try:
        yield begun, progress
    finally:
        if bars:
            bars[0].__exit__(None, None, None)
