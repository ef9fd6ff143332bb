"""Codecs by name: the harness's own, those of installed packages, and classes given on the command line."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sdcodec.errors import OptionError, SdcodecError
from sdcodec_eval.codecs.downscaled import Downscaled
from sdcodec_eval.codecs.protocol import ImageCodec, Setting

ENTRY_POINTS = "sdcodec_eval.codecs"
OWN = {
    "sdcodec": "sdcodec_eval.codecs.neural:Sdcodec",
    "jpeg": "sdcodec_eval.codecs.classic:Jpeg",
    "webp": "sdcodec_eval.codecs.classic:WebP",
    "avif": "sdcodec_eval.codecs.classic:Avif",
    "jxl": "sdcodec_eval.codecs.classic:JpegXL",
}
CLASSIC = ("jpeg", "webp", "avif", "jxl")
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")  # labels become file names
MEMBERS = ("name", "extension", "settings", "qualities", "encode", "decode")


@dataclass(frozen=True)
class CodecSpec:
    """A codec of a run, before it is made: how it is called there, a name or `module:Class`, and options for its class.

    The option `downscale=N` is the harness's own: the codec then sees the picture at 1/N.
    """

    label: str
    target: str
    options: Mapping[str, Setting] = field(default_factory=dict)


def parse(text: str) -> CodecSpec:
    """`LABEL=TARGET[,option=value...]`, TARGET a known name or `module:Class`; or a name alone, which is its own label.

    Values are integers, numbers, `true` and `false` where they look so, and text otherwise. Raises OptionError.
    """
    head, *rest = text.split(",")
    label, equals, target = head.partition("=")
    label = label.strip()
    if not LABEL.fullmatch(label):
        raise OptionError(f"{label!r} is no label for a codec; use letters, digits and any of _.+-")
    options = {}
    for part in rest:
        key, has_value, value = part.partition("=")
        if not has_value or not key.strip().isidentifier():
            raise OptionError(f"{part!r} in {text!r}: write option=value")
        options[key.strip()] = _value(value.strip())
    return CodecSpec(label, target.strip() if equals else label, options)


def known() -> list[str]:
    """Every name that `--codecs` takes."""
    return sorted({*OWN, *(entry.name for entry in importlib.metadata.entry_points(group=ENTRY_POINTS))})


def build(spec: CodecSpec) -> ImageCodec:
    """The codec. Raises OptionError for a name, class or option that is not there, and what its constructor raises."""
    options = dict(spec.options)
    factor = options.pop("downscale", 1)
    if not isinstance(factor, int) or isinstance(factor, bool) or factor < 1:
        raise OptionError(f"{spec.label}: downscale={factor} is no whole number from 1 on")
    made = _class(spec)
    try:
        codec: ImageCodec = made(**options)
    except SdcodecError:
        raise
    except Exception as error:  # a constructor of others may raise anything
        raise OptionError(f"{spec.label}: {spec.target} cannot be made with these options ({error})") from error
    if missing := [member for member in MEMBERS if not hasattr(codec, member)]:
        raise OptionError(
            f"{spec.label}: {spec.target} is no codec, it lacks {', '.join(missing)}; see docs/evaluation.md"
        )
    return codec if factor == 1 else Downscaled(codec, factor)


def described(settings: Mapping[str, Any]) -> str:
    """Settings in one line, for tables."""
    return "; ".join(
        f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in settings.items()
    )


def _class(spec: CodecSpec) -> Any:
    target = OWN.get(spec.target, spec.target)
    if ":" not in target:
        for entry in importlib.metadata.entry_points(group=ENTRY_POINTS, name=target):
            return _imported(spec, entry.value)
        raise OptionError(
            f"unknown codec {target!r}; known are {', '.join(known())}, or give --codec NAME=module:Class"
        )
    return _imported(spec, target)


def _imported(spec: CodecSpec, target: str) -> Any:
    module, _, name = target.partition(":")
    if "" not in sys.path:
        sys.path.append("")  # as `python -m` does: a module in the folder where the command is given
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise OptionError(f"{spec.label}: {module} cannot be imported ({error}); install what it needs") from error
    if not hasattr(found, name):
        raise OptionError(f"{spec.label}: {module} has no {name}")
    return getattr(found, name)


def _value(text: str) -> Setting:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
