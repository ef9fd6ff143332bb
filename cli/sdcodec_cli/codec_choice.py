"""Options of `eval` and `compare` that choose the codecs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from sdcodec.bundles import store
from sdcodec.errors import OptionError
from sdcodec_cli.conversion import with_parameters

if TYPE_CHECKING:
    from sdcodec_eval.codecs.registry import CodecSpec

DEFAULT_CODECS = "sdcodec,jpeg,webp,avif,jxl"
PACKAGES = {  # modules and packages of the extra `eval`
    "bjontegaard": "bjontegaard",
    "jinja2": "jinja2",
    "matplotlib": "matplotlib",
    "pytorch_msssim": "pytorch-msssim",
    "skimage": "scikit-image",
}


def names(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...]:
    """Parse names separated by commas."""
    return tuple(part.strip() for part in (value or "").split(",") if part.strip())


def positive_integers(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...]:
    """Parse integers from 1 up, separated by commas."""
    try:
        found = tuple(int(part) for part in value.split(",")) if value else ()
    except ValueError as error:
        raise click.BadParameter(f"{value!r}: not whole numbers separated by commas.") from error
    if any(number < 1 for number in found):
        raise click.BadParameter(f"{value!r}: the smallest number is 1.")
    return found


@dataclass(frozen=True)
class CodecChoice:
    """Values of the options that choose the codecs.

    crop: side of the centre crop in pixels; None for whole images.
    """

    codecs: tuple[str, ...]
    added: tuple[str, ...]
    downscale: tuple[int, ...]
    model: str
    device: str
    precision: str
    crop: int | None

    def specs(self) -> tuple[CodecSpec, ...]:
        """Return the codecs of a run: --codecs, then --codec, then --downscale."""
        from sdcodec_eval.codecs.registry import CLASSIC, CodecSpec, parse

        own = {spec.label: spec for spec in map(parse, self.added)}
        if len(own) < len(self.added):
            raise OptionError("two --codec options have the same label; give them different labels")
        specs = [own.pop(name) if name in own else parse(name) for name in self.codecs] + list(own.values())
        common = {"model": self.model, "device": self.device, "precision": self.precision}
        specs = [CodecSpec(s.label, s.target, {**common, **s.options}) if s.target == "sdcodec" else s for s in specs]
        smaller = [
            CodecSpec(f"{s.label}-down{n}", s.target, {**s.options, "downscale": n})
            for n in dict.fromkeys(self.downscale)
            for s in specs
            if s.target in CLASSIC and n > 1
        ]
        return (*_with_faithful(specs), *smaller)


def _with_faithful(specs: list[CodecSpec]) -> list[CodecSpec]:
    """Add sdcodec at realism 0 behind each model that decodes with another by default."""
    labels, found = {spec.label for spec in specs}, []
    for spec in specs:
        found.append(spec)
        label = f"{spec.label}-realism0"
        if spec.target != "sdcodec" or "realism" in spec.options or label in labels:
            continue
        if store.find(str(spec.options["model"])).default_realism:
            found.append(replace(spec, label=label, options={**spec.options, "realism": 0}))
    return found


def codec_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of CodecChoice to a command, which receives it as `chosen`."""

    @wraps(command)
    def gathered(**values: Any) -> None:
        choice = {field.name: values.pop(field.name) for field in fields(CodecChoice)}
        command(chosen=CodecChoice(**choice), **values)

    return with_parameters(
        gathered,
        click.option(
            "--codecs",
            callback=names,
            default=DEFAULT_CODECS,
            show_default=True,
            metavar="NAME,...",
            help="Names of codecs, also of those that installed packages add.",
        ),
        click.option(
            "--codec",
            "added",
            multiple=True,
            metavar="LABEL=TARGET[,OPTION=VALUE...]",
            help="Add a codec: TARGET is a name or module:Class (repeatable).",
        ),
        click.option(
            "--downscale",
            callback=positive_integers,
            metavar="N,...",
            help="Add each classic codec at 1/N of the size, N >= 2, scaled up after decoding.",
        ),
        click.option(
            "--model", default=store.DEFAULT, show_default=True, metavar="NAME|FOLDER", help="Model of sdcodec."
        ),
        click.option("--device", default="auto", show_default=True, help="Device of sdcodec: auto, cpu, cuda or mps."),
        click.option(
            "--precision",
            default="auto",
            show_default=True,
            help="Number format of sdcodec: auto, float32, bfloat16 or float16.",
        ),
        click.option(
            "--crop", type=click.IntRange(min=1), metavar="SIDE", help="Use the centre crop of SIDE x SIDE pixels."
        ),
    )


def require_eval_packages() -> None:
    """Raise OptionError with the remedy if a package of the extra `eval` is missing."""
    if missing := [package for module, package in PACKAGES.items() if importlib.util.find_spec(module) is None]:
        raise OptionError(f"evaluation needs {', '.join(missing)}; install sdcodec[eval]")
