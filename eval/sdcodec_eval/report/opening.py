"""State of the page when it opens: codecs, order of the images, and controls."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sdcodec_eval.report.results import Metric, Results

SPELLINGS = {"jpeg": "JPEG", "webp": "WebP", "avif": "AVIF", "jxl": "JPEG XL"}


@dataclass(frozen=True)
class Shown:
    """Codec on the page; slot is the index of its colour, 0 for the reference."""

    label: str
    name: str
    slot: int
    codec: str
    settings: Mapping[str, Any]


def shown_codecs(results: Results) -> list[Shown]:
    """Return the codecs in the order of the run."""
    others = [codec.label for codec in results.codecs if codec is not results.reference]
    slots = {results.reference.label: 0} | {label: slot for slot, label in enumerate(others, start=1)}
    return [
        Shown(codec.label, SPELLINGS.get(codec.label, codec.label), slots[codec.label], codec.codec, codec.settings)
        for codec in results.codecs
    ]


def headline_first(results: Results) -> list[Metric]:
    """Return the metrics with the headline first, the others in the order of the run."""
    return sorted(results.metrics, key=lambda metric: metric != results.headline)


def worst_first(results: Results) -> list[str]:
    """Sort images by the reference's headline metric at the starting point.

    Images without a value come first, then the worst ones.
    """
    point = start_point(results)
    metric = results.headline
    badness = dict.fromkeys(results.images, math.inf)
    for row in results.rows:
        if row.codec == results.reference.label and point in (row.budget, row.quality):
            value = row.values[metric.column]
            if value is not None:
                badness[row.image] = -value if metric.higher_is_better else value
    return sorted(badness, key=lambda name: -badness[name])


def start_point(results: Results) -> float:
    """Return the median budget, or quality of the reference; the lower of two."""
    points = _points(results)
    return points[(len(points) - 1) // 2]


def _points(results: Results) -> list[float]:
    if results.budgets:
        return list(results.budgets)
    return [point.quality for point in results.reference.points if point.quality is not None] or [0]


def start(results: Results, codecs: Sequence[Shown]) -> dict[str, Any]:
    """Return the initial controls: the reference on the right, the anchor on the left."""
    reference = results.reference.label
    rivals = [codec.label for codec in codecs if codec.label != reference]
    left = results.anchor if results.anchor in rivals else (rivals[0] if rivals else "original")
    return {
        "points": _points(results),
        "point": start_point(results),
        "left": left,
        "right": reference,
        "codec": reference,
        "codec_name": next(codec.name for codec in codecs if codec.label == reference),
        "metric": results.headline.column,
    }
