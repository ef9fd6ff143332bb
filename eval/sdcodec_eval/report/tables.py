"""Tables of means and BD-rates for the template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sdcodec_eval.curves import BDRate
from sdcodec_eval.report.opening import SPELLINGS, Shown, headline_first
from sdcodec_eval.report.results import Metric, Point, Results


@dataclass(frozen=True)
class MeansLine:
    """Row of means; first: starts a group; best: columns with the best value."""

    name: str
    slot: int
    point: Point
    first: bool
    best: frozenset[str]


def means_table(results: Results, codecs: Sequence[Shown]) -> list[MeansLine]:
    """Build the rows by budget and codec; over qualities, by codec and quality."""
    pairs = [
        (shown, point)
        for codec, shown in zip(results.codecs, codecs, strict=True)
        for point in sorted(codec.points, key=lambda point: (point.budget or 0, point.quality or 0))
    ]
    if results.budgets:
        pairs.sort(key=lambda pair: pair[1].budget or 0)  # stable, so the order of the codecs is kept
    best = {budget: _best(results, budget) for budget in results.budgets}
    lines, group = [], None
    for shown, point in pairs:
        key = point.budget if results.budgets else shown.label
        leads = frozenset(
            column
            for column, value in best.get(point.budget or 0, {}).items()
            if point.fair and point.values[column] == value
        )
        lines.append(MeansLine(shown.name, shown.slot, point, key != group, leads))
        group = key
    return lines


def _best(results: Results, budget: int) -> dict[str, float]:
    fair = [p for codec in results.codecs for p in codec.points if p.budget == budget and p.fair]
    best = {}
    for metric in results.metrics:
        values = [value for point in fair if (value := point.values[metric.column]) is not None]
        if len(values) > 1:
            best[metric.column] = max(values) if metric.higher_is_better else min(values)
    return best


def bd_rate_table(results: Results, codecs: Sequence[Shown]) -> dict[str, Any]:
    """Build a row for each codec except the anchor, with a cell for each metric."""
    cells = {(entry.codec, entry.metric): entry for entry in results.bd_rate}
    metrics = [metric for metric in headline_first(results) if any(key[1] == metric.column for key in cells)]
    measured = {key[0] for key in cells}
    lines = [
        {
            "name": codec.name,
            "slot": codec.slot,
            "cells": [_bd_cell(cells.get((codec.label, metric.column)), metric) for metric in metrics],
        }
        for codec in codecs
        if codec.label in measured
    ]
    anchor = next((entry.anchor for entry in results.bd_rate), "")
    return {"anchor": SPELLINGS.get(anchor, anchor), "metrics": metrics, "lines": lines}


def _bd_cell(entry: BDRate | None, metric: Metric) -> dict[str, Any] | None:
    return None if entry is None else asdict(entry) | {"digits": metric.digits}
