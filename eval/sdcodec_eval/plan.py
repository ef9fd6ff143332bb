"""Plan of a run: codecs, points and metrics; picklable and convertible to JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sdcodec.errors import OptionError
from sdcodec_eval.codecs.registry import CodecSpec
from sdcodec_eval.measuring import DEFAULT

UNREACHABLE = ("show", "lowest")


@dataclass(frozen=True)
class Point:
    """Byte budget, or quality on the codec's own scale; the other one is None."""

    budget: int | None
    quality: float | None

    @property
    def text(self) -> str:
        """Return `5000` or `q50`, as in file names."""
        return str(self.budget) if self.budget is not None else f"q{self.quality:g}"


@dataclass(frozen=True)
class Plan:
    """Settings that determine the rows of a run, apart from the images.

    codecs: in the order of the tables, with distinct labels.
    budgets: in bytes; if empty, qualities holds the qualities of each label.
    crop: side of the centre crop in pixels; None for whole images.
    unreachable: if no quality meets the budget, "show" leaves the cell empty, "lowest" measures the lowest quality.
    ceiling: measure the unquantised round trip of codecs that have one.
    """

    codecs: tuple[CodecSpec, ...]
    budgets: tuple[int, ...] = ()
    qualities: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    crop: int | None = None
    metrics: tuple[str, ...] = DEFAULT
    vgg_weights: Path | None = None
    unreachable: str = "show"
    ceiling: bool = True

    def __post_init__(self) -> None:
        labels = [spec.label for spec in self.codecs]
        if not labels:
            raise OptionError("no codec to evaluate; name at least one")
        if twice := {label for label in labels if labels.count(label) > 1}:
            raise OptionError(f"two codecs have the label {', '.join(sorted(twice))}; give them different labels")
        if bool(self.budgets) == bool(self.qualities):
            raise OptionError("a plan has either byte budgets or qualities; give one of them")
        if any(budget < 1 for budget in self.budgets):
            raise OptionError("a byte budget is below 1; give at least 1")
        if self.unreachable not in UNREACHABLE:
            raise OptionError(f"unreachable is {self.unreachable!r}; choose {' or '.join(UNREACHABLE)}")
        if self.crop is not None and self.crop < 1:
            raise OptionError("the side of the crop is below 1; give at least 1")

    def points(self, label: str) -> list[Point]:
        """Return the points of a codec in ascending order."""
        if self.budgets:
            return [Point(budget, None) for budget in sorted(set(self.budgets))]
        return [Point(None, quality) for quality in sorted(set(self.qualities[label]))]

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON values; equal plans give equal values."""
        values = asdict(self)
        values["codecs"] = [{"label": s.label, "target": s.target, "options": dict(s.options)} for s in self.codecs]
        values["qualities"] = {label: list(chosen) for label, chosen in self.qualities.items()}
        values["budgets"], values["metrics"] = sorted(set(self.budgets)), list(self.metrics)
        values["vgg_weights"] = None if self.vgg_weights is None else str(self.vgg_weights)
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Plan:
        """Restore a plan from the values of `to_json`."""
        return cls(
            codecs=tuple(CodecSpec(c["label"], c["target"], c["options"]) for c in values["codecs"]),
            budgets=tuple(values["budgets"]),
            qualities={label: tuple(chosen) for label, chosen in values["qualities"].items()},
            crop=values["crop"],
            metrics=tuple(values["metrics"]),
            vgg_weights=None if values["vgg_weights"] is None else Path(values["vgg_weights"]),
            unreachable=values["unreachable"],
            ceiling=values["ceiling"],
        )


def common_qualities(specs: Sequence[CodecSpec], texts: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Parse qualities: `10,50,90` for every codec, `LABEL=1,2,3` for one.

    The qualities of a label replace the common ones. Raises OptionError.
    """
    labels = [spec.label for spec in specs]
    shared: tuple[float, ...] = ()
    own: dict[str, tuple[float, ...]] = {}
    for text in texts:
        label, equals, numbers = text.rpartition("=")
        try:
            values = tuple(float(part) for part in numbers.split(","))
        except ValueError as error:
            raise OptionError(f"{text!r}: not numbers separated by commas; write 10,50,90 or LABEL=10,50,90") from error
        if not equals:
            shared = (*shared, *values)
        elif label in labels:
            own[label] = (*own.get(label, ()), *values)
        else:
            raise OptionError(
                f"{text!r}: no codec of this run has the label {label!r}; choose from {', '.join(labels)}"
            )
    if without := [label for label in labels if not own.get(label, shared)]:
        raise OptionError(f"no quality for {', '.join(without)}; give --quality LABEL=Q,...")
    return {label: own.get(label, shared) for label in labels}
