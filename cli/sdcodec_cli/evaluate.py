"""`sdcodec eval` and `sdcodec compare`: codecs side by side at equal bytes."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sdcodec.bundles import store
from sdcodec.errors import OptionError
from sdcodec.files import atomic_write, refuse_existing
from sdcodec_cli.messages import say_error

if TYPE_CHECKING:
    from sdcodec_eval.codecs.registry import CodecSpec

DEFAULT_CODECS = "sdcodec,jpeg,webp,avif,jxl"
DEFAULT_BUDGETS = "2500,5000,10000,20000"
Command = TypeVar("Command", bound=Callable[..., Any])


def _names(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (value or "").split(",") if part.strip())


def _integers(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...]:
    try:
        found = tuple(int(part) for part in value.split(",")) if value else ()
    except ValueError as error:
        raise click.BadParameter(f"{value!r}: whole numbers with commas between them.") from error
    if any(number < 1 for number in found):
        raise click.BadParameter(f"{value!r}: at least 1 each.")
    return found


def _codec_options(command: Command) -> Command:
    options = [
        click.option(
            "--codecs",
            callback=_names,
            default=DEFAULT_CODECS,
            show_default=True,
            metavar="NAME,...",
            help="Codecs by name; an installed package may add to them.",
        ),
        click.option(
            "--codec",
            "added",
            multiple=True,
            metavar="LABEL=TARGET[,OPTION=VALUE...]",
            help="A codec more: a name with options, or module:Class (repeatable).",
        ),
        click.option(
            "--downscale",
            callback=_integers,
            metavar="N,...",
            help="Also each classic codec at 1/N of the size, scaled up again.",
        ),
        click.option(
            "--model", default=store.DEFAULT, show_default=True, metavar="NAME|FOLDER", help="The model of sdcodec."
        ),
        click.option("--device", default="auto", show_default=True, help="Where sdcodec runs: auto, cpu, cuda or mps."),
        click.option(
            "--precision", default="auto", show_default=True, help="Of sdcodec: auto, float32, bfloat16 or float16."
        ),
        click.option("--crop", type=click.IntRange(min=1), metavar="SIDE", help="Only the centre crop of SIDE x SIDE."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.command("eval", no_args_is_help=True)
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, metavar="DIR", type=click.Path(path_type=Path), help="Where the results go.")
@_codec_options
@click.option(
    "--bytes", "budgets", callback=_integers, metavar="N,...", help=f"Byte budgets.  [default: {DEFAULT_BUDGETS}]"
)
@click.option(
    "--quality",
    "qualities",
    multiple=True,
    metavar="[LABEL=]Q,...",
    help="Qualities in the place of budgets, for all codecs or for one.",
)
@click.option(
    "--metrics",
    callback=_names,
    default="psnr,psnr-y,ssim,ms-ssim,lpips",
    show_default=True,
    metavar="NAME,...",
    help="Further ones: lpips-vgg, dists, ssimulacra2.",
)
@click.option(
    "--lpips-vgg-weights",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="VGG-16 for lpips-vgg and dists.  [default: torchvision's cache]",
)
@click.option(
    "--unreachable",
    type=click.Choice(["show", "lowest"]),
    default="show",
    show_default=True,
    help="Where no quality meets the budget: say so, or measure the lowest.",
)
@click.option("--anchor", metavar="LABEL", help="What BD-rates are against.  [default: avif]")
@click.option("--no-ceiling", is_flag=True, help="Leave out the unquantised round trip.")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes.")
@click.option("--resume", is_flag=True, help="Go on with the run in DIR.")
@click.option("--force", is_flag=True, help="Replace the results in DIR.")
@click.option("--quiet", is_flag=True, help="Say nothing but errors.")
def evaluate(
    inputs: tuple[Path, ...],
    out: Path,
    codecs: tuple[str, ...],
    added: tuple[str, ...],
    downscale: tuple[int, ...],
    model: str,
    device: str,
    precision: str,
    crop: int | None,
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
    """Compare codecs on pictures, at equal bytes or over qualities.

    INPUT is an image file or a folder, searched with all that is in it. At a
    byte budget sdcodec comes first, and each other codec gets the largest
    quality whose file is not longer than sdcodec's. Everything goes to DIR:
    results.csv, results.json, environment.json, plots, files and a report.

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
        raise click.UsageError("--metrics names none.")
    _require_eval()

    from sdcodec_eval.pictures import collect
    from sdcodec_eval.plan import Plan, common_qualities
    from sdcodec_eval.report import write_report
    from sdcodec_eval.rows import ERROR
    from sdcodec_eval.run import evaluate as run
    from sdcodec_eval.tables import bd_rate_table, means_table

    specs = _specs(codecs, added, downscale, model, device, precision)
    if not budgets and not qualities:
        budgets = tuple(int(part) for part in DEFAULT_BUDGETS.split(","))
    plan = Plan(
        specs,
        budgets=budgets,
        qualities=common_qualities(specs, qualities) if qualities else {},
        crop=crop,
        metrics=metrics,
        vgg_weights=lpips_vgg_weights,
        unreachable=unreachable,
        ceiling=not no_ceiling,
    )
    sources = collect(inputs, apart_from=out)
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
    if not quiet:  # before the report, which takes a while: it decodes every file once more
        click.echo(means_table(summary))
        if told := bd_rate_table(summary):
            click.echo(f"\n{told}")
        click.echo(f"\nresults in {out}; now the report, with the pictures ...")
    report = write_report(out)
    if not quiet:
        click.echo(f"look at {report}")
    failed = [row for row in summary.rows if row.status.startswith(ERROR)]
    for image, status in dict.fromkeys((row.image, row.status) for row in failed):
        reason = status.removeprefix(f"{ERROR}: ")
        say_error(reason if image in reason else f"{image}: {reason}")
    if failed:
        say_error(f"{len(failed)} of {len(summary.rows)} rows have errors")
        raise click.exceptions.Exit(1)


@click.command(no_args_is_help=True)
@click.argument("picture", metavar="INPUT", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--bytes", "budget", type=click.IntRange(min=1), default=5000, show_default=True, metavar="N")
@click.option("-o", "--output", required=True, metavar="OUTPUT", help="The picture to write: png, webp, avif or jpeg.")
@_codec_options
@click.option("--columns", type=click.IntRange(min=1), metavar="N", help="Pictures in a row.  [default: 3]")
@click.option("--force", is_flag=True, help="Replace an existing file.")
@click.option("--quiet", is_flag=True, help="Say nothing but errors.")
def compare(
    picture: Path,
    budget: int,
    output: str,
    codecs: tuple[str, ...],
    added: tuple[str, ...],
    downscale: tuple[int, ...],
    model: str,
    device: str,
    precision: str,
    crop: int | None,
    columns: int | None,
    force: bool,
    quiet: bool,
) -> None:
    """Show one picture through several codecs at equal bytes, labelled.

    \b
    Examples:
      sdcodec compare photo.jpg --bytes 5000 -o compare.png
      sdcodec compare photo.jpg -o compare.png --codecs sdcodec,avif --downscale 2
    """
    _require_eval()
    refuse_existing(output, force=force)

    from sdcodec.pixels import to_image_file
    from sdcodec_eval.comparison import compare as run

    specs = _specs(codecs, added, downscale, model, device, precision)
    comparison = run(picture, budget, specs, crop)
    sheet = comparison.picture(columns or min(3, len(specs) + 1))
    atomic_write(output, to_image_file(sheet, Path(output).suffix[1:].lower()), force=force)
    if not quiet:
        click.echo(comparison.table())


def _specs(
    names: tuple[str, ...], added: tuple[str, ...], downscale: tuple[int, ...], model: str, device: str, precision: str
) -> tuple[CodecSpec, ...]:
    """The codecs of a run in order: those named, those added, and the classic ones at smaller sizes."""
    from sdcodec_eval.codecs.registry import CLASSIC, CodecSpec, parse

    own = {spec.label: spec for spec in map(parse, added)}
    if len(own) < len(added):
        raise OptionError("two --codec have the same label; give them different ones")
    specs = [own.pop(name) if name in own else parse(name) for name in names] + list(own.values())
    common = {"model": model, "device": device, "precision": precision}
    specs = [CodecSpec(s.label, s.target, {**common, **s.options}) if s.target == "sdcodec" else s for s in specs]
    smaller = [
        CodecSpec(f"{s.label}-down{n}", s.target, {**s.options, "downscale": n})
        for n in dict.fromkeys(downscale)
        for s in specs
        if s.target in CLASSIC and n > 1
    ]
    return (*specs, *smaller)


@contextmanager
def _progress(quiet: bool) -> Iterator[tuple[Callable[[int], None], Callable[[int], None]]]:
    """Two functions: how many rows there will be, and how many more are done. A bar with the time left, on a terminal."""
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


def _require_eval() -> None:
    """The harness's packages are an extra; say so before the first import fails."""
    needed = {
        "bjontegaard": "bjontegaard",
        "jinja2": "jinja2",
        "matplotlib": "matplotlib",
        "pytorch_msssim": "pytorch-msssim",
        "skimage": "scikit-image",
    }
    if missing := [package for module, package in needed.items() if importlib.util.find_spec(module) is None]:
        raise OptionError(f"{', '.join(missing)} is not installed, which evaluation needs; install sdcodec[eval]")
