"""Registry of codecs: built-in names, entry points of packages, `module:Class`."""

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
    """Specification of a codec: label, name or `module:Class`, and options.

    The option `downscale=N` belongs to the harness: the codec encodes the image at 1/N of the size.
    """

    label: str
    target: str
    options: Mapping[str, Setting] = field(default_factory=dict)


def parse(text: str) -> CodecSpec:
    """Parse `LABEL=TARGET[,option=value...]`, or a name alone, which is its own label.

    TARGET is a known name or `module:Class`. Values are parsed as integers, floats or `true`/`false`, else kept as text.
    Raises OptionError.
    """
    head, *rest = text.split(",")
    label, equals, target = head.partition("=")
    label = label.strip()
    if not LABEL.fullmatch(label):
        raise OptionError(f"{label!r} is not a valid label of a codec; use letters, digits and any of _.+-")
    options = {}
    for part in rest:
        key, has_value, value = part.partition("=")
        if not has_value or not key.strip().isidentifier():
            raise OptionError(f"{text!r}: {part!r} is not of the form option=value; write LABEL=TARGET,option=value")
        options[key.strip()] = _value(value.strip())
    return CodecSpec(label, target.strip() if equals else label, options)


def known() -> list[str]:
    """Return the names that `--codecs` accepts."""
    return sorted({*OWN, *(entry.name for entry in importlib.metadata.entry_points(group=ENTRY_POINTS))})


def build(spec: CodecSpec) -> ImageCodec:
    """Build a codec.

    Raises OptionError for an unknown name, class or option, and the SdcodecError of a constructor.
    """
    options = dict(spec.options)
    factor = options.pop("downscale", 1)
    if not isinstance(factor, int) or isinstance(factor, bool) or factor < 1:
        raise OptionError(f"{spec.label}: downscale={factor} is not a whole number from 1 up; give 1 or more")
    made = _class(spec)
    try:
        codec: ImageCodec = made(**options)
    except SdcodecError:
        raise
    except Exception as error:  # third-party constructors raise anything
        raise OptionError(f"{spec.label}: {spec.target} refuses these options ({error}); correct them") from error
    if missing := [member for member in MEMBERS if not hasattr(codec, member)]:
        raise OptionError(
            f"{spec.label}: {spec.target} is not a codec, it lacks {', '.join(missing)}; see docs/evaluation.md"
        )
    return codec if factor == 1 else Downscaled(codec, factor)


def described(settings: Mapping[str, Any]) -> str:
    """Format settings in one line."""
    return "; ".join(
        f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in settings.items()
    )


def _class(spec: CodecSpec) -> Any:
    target = OWN.get(spec.target, spec.target)
    if ":" not in target:
        for entry in importlib.metadata.entry_points(group=ENTRY_POINTS, name=target):
            return _imported(spec, entry.value)
        raise OptionError(
            f"unknown codec {target!r}; choose from {', '.join(known())}, or give --codec LABEL=module:Class"
        )
    return _imported(spec, target)


def _imported(spec: CodecSpec, target: str) -> Any:
    module, _, name = target.partition(":")
    if "" not in sys.path:
        sys.path.append("")  # as `python -m` does, to find modules in the working directory
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise OptionError(f"{spec.label}: {module} cannot be imported ({error}); install what it needs") from error
    if not hasattr(found, name):
        raise OptionError(f"{spec.label}: {module} has no {name}; correct --codec LABEL=module:Class")
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
