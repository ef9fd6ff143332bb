"""Summary of a run, results.json: curves, BD-rates, ceilings, published figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sdcodec_eval import published
from sdcodec_eval.codecs.protocol import ImageCodec
from sdcodec_eval.codecs.registry import described
from sdcodec_eval.curves import BDRate, CurvePoint, bd_rate, curve
from sdcodec_eval.measuring import Metric, chosen
from sdcodec_eval.plan import Plan
from sdcodec_eval.rows import Record, Row, in_order

SCHEMA = 1
FAVOURED_ANCHOR = "avif"


@dataclass(frozen=True)
class Summary:
    """Results of a run; rows in their final order, curves and ceilings by label."""

    plan: Plan
    codecs: Mapping[str, ImageCodec]
    reference: str | None
    metrics: Sequence[Metric]
    pictures: Sequence[str]
    rows: Sequence[Row]
    curves: Mapping[str, Sequence[CurvePoint]]
    ceilings: Mapping[str, Mapping[str, float | None]]
    anchor: str | None
    bd_rates: Sequence[BDRate]
    dataset: str | None
    whole: bool

    @property
    def published(self) -> list[published.PublishedCurve]:
        """Return the published curves if the run used the same images, whole Kodak."""
        return published.published_curves() if self.dataset == "Kodak" and self.whole else []


def summarise(
    plan: Plan,
    codecs: Mapping[str, ImageCodec],
    reference: str | None,
    records: Mapping[str, Record],
    anchor: str | None = None,
) -> Summary:
    """Summarise the records of the journals, by image in the order of the run.

    anchor: label of the anchor of the BD-rates; None selects AVIF, or else the first codec but the reference.
    """
    labels, metrics = list(codecs), chosen(plan.metrics)
    points = {label: plan.points(label) for label in labels}
    rows = in_order(records, labels, points)
    readable = {name for name, record in records.items() if record.digest is not None}
    curves = {
        label: curve([row for row in rows if row.codec == label and row.image in readable], points[label], metrics)
        for label in labels
    }
    anchor = anchor or _anchor(labels, reference)
    bd_rates = [
        bd_rate(label, curves[label], anchor, curves[anchor], metric)
        for label in labels
        if anchor is not None and label != anchor
        for metric in metrics
    ]
    digests = {record.digest for record in records.values()}
    return Summary(
        plan=plan,
        codecs=codecs,
        reference=reference,
        metrics=metrics,
        pictures=list(records),
        rows=rows,
        curves=curves,
        ceilings=_ceilings(labels, [record for record in records.values() if record.digest is not None], metrics),
        anchor=anchor,
        bd_rates=bd_rates,
        dataset="Kodak" if published.are_of_kodak(digests) else None,
        whole=plan.crop is None and published.is_kodak(digests),
    )


def to_json(summary: Summary) -> dict[str, Any]:
    """Convert to the content of results.json; the schema is in docs/evaluation.md."""
    plan = summary.plan
    return {
        "schema": SCHEMA,
        "name": "sdcodec eval",
        "description": _description(summary),
        "pictures": {
            "count": len(summary.pictures),
            "names": list(summary.pictures),
            "crop": plan.crop,
            "dataset": summary.dataset,
            "whole": summary.whole,
        },
        "rate": "bytes" if plan.budgets else "quality",
        "budgets": sorted(set(plan.budgets)),
        "unreachable": plan.unreachable,
        "metrics": [
            {
                "name": metric.name,
                "column": metric.column,
                "title": metric.title,
                "unit": metric.unit,
                "better": "higher" if metric.higher_is_better else "lower",
            }
            for metric in summary.metrics
        ],
        "codecs": [_codec(summary, label) for label in summary.codecs],
        "anchor": summary.anchor,
        "bd_rate": [asdict(found) for found in summary.bd_rates],
        "published": [asdict(found) for found in summary.published],
        "published_note": published.note() if summary.published else None,
    }


def compressai_json(summary: Summary, label: str) -> dict[str, Any]:
    """Convert one codec to CompressAI's schema: lists over the complete points."""
    codec, points = summary.codecs[label], [point for point in summary.curves[label] if point.complete]
    results: dict[str, list[float | None]] = {"bpp": [_finite(point.bpp) for point in points]}
    for metric in summary.metrics:
        values = [_finite(point.values[metric.column]) for point in points]
        if all(value is not None for value in values):
            results[metric.key] = values
    results["encoding_time"] = [_finite(point.encode_seconds) for point in points]
    results["decoding_time"] = [_finite(point.decode_seconds) for point in points]
    return {"name": label, "description": f"{codec.name}; {described(codec.settings)}", "results": results}


def _codec(summary: Summary, label: str) -> dict[str, Any]:
    codec = summary.codecs[label]
    return {
        **compressai_json(summary, label),
        "label": label,
        "codec": codec.name,
        "settings": dict(codec.settings),
        "extension": codec.extension,
        "reference": label == summary.reference,
        "points": [_point(point) for point in summary.curves[label]],
        "ceiling": {key: _finite(value) for key, value in summary.ceilings[label].items()}
        if label in summary.ceilings
        else None,
    }


def _point(point: CurvePoint) -> dict[str, Any]:
    return {
        "budget_bytes": point.point.budget,
        "quality": point.point.quality,
        "pictures": point.pictures,
        "unreachable": point.unreachable,
        "errors": point.errors,
        "complete": point.complete,
        "bytes": point.bytes,
        "bpp": point.bpp,
        "quality_mean": point.quality,
        **{column: _finite(value) for column, value in point.values.items()},
        "encode_seconds": point.encode_seconds,
        "decode_seconds": point.decode_seconds,
    }


def _ceilings(
    labels: Sequence[str], records: Sequence[Record], metrics: Sequence[Metric]
) -> dict[str, dict[str, float | None]]:
    """Average the ceilings by label and column, of codecs with one for every image."""
    found: dict[str, dict[str, float | None]] = {}
    for label in labels:
        values = [record.ceilings[label] for record in records if label in record.ceilings]
        if values and len(values) == len(records):
            found[label] = {metric.column: _mean([v[metric.column] for v in values]) for metric in metrics}
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return math.fsum(present) / len(present) if len(present) == len(values) else None


def _anchor(labels: Sequence[str], reference: str | None) -> str | None:
    if FAVOURED_ANCHOR in labels:
        return FAVOURED_ANCHOR
    return next((label for label in labels if label != reference), None)


def _description(summary: Summary) -> str:
    pictures = f"{len(summary.pictures)} image{'s' if len(summary.pictures) != 1 else ''}"
    if summary.dataset:
        pictures += f" of {summary.dataset}"
    crop = f", centre crops of {summary.plan.crop} x {summary.plan.crop}" if summary.plan.crop else ""
    rate = "at equal bytes" if summary.plan.budgets else "over qualities"
    return f"{pictures}{crop}, {rate}; means over images of per-image values"


def _finite(value: float | None) -> float | None:
    """Replace infinity, the PSNR of equal images, by None for JSON."""
    return value if value is not None and math.isfinite(value) else None
