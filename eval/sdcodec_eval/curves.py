"""Rate–distortion curves, as means over images, and BD-rates between them."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sdcodec_eval.measuring import Metric
from sdcodec_eval.plan import Point
from sdcodec_eval.rows import ERROR, UNREACHABLE, Row, means

MIN_POINTS = 3  # of a curve, for BD-rate
MIN_OVERLAP = 0.1  # of the range of the metric that either curve covers


@dataclass(frozen=True)
class CurvePoint:
    """Means over the images that have a file at a point.

    pictures: number of these images; unreachable, errors: number of rows with that status.
    complete: every readable image of the run is included, so that points can be compared.
    values: metrics by column; None if an image has no value.
    """

    point: Point
    pictures: int
    unreachable: int
    errors: int
    complete: bool
    bytes: float | None = None
    bpp: float | None = None
    quality: float | None = None
    encode_seconds: float | None = None
    decode_seconds: float | None = None
    values: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class BDRate:
    """Bjøntegaard delta rate in percent; negative if the codec needs fewer bytes.

    overlap: share, 0 to 1, of the metric's range that both curves cover; range: the common range, in the metric's unit.
    refused: reason why percent is None, or None.
    """

    codec: str
    anchor: str
    metric: str
    percent: float | None = None
    overlap: float | None = None
    range: tuple[float, float] | None = None
    refused: str | None = None


def curve(rows: Sequence[Row], points: Sequence[Point], metrics: Sequence[Metric]) -> list[CurvePoint]:
    """Average one codec's rows, of the readable images, at each point."""
    return [_mean([row for row in rows if row.point == point.text], point, metrics) for point in points]


def _mean(rows: Sequence[Row], point: Point, metrics: Sequence[Metric]) -> CurvePoint:
    coded = [row for row in rows if row.bytes is not None]
    return CurvePoint(
        point=point,
        pictures=len(coded),
        unreachable=sum(row.status == UNREACHABLE for row in rows),
        errors=sum(row.status.startswith(ERROR) for row in rows),
        complete=bool(rows) and len(coded) == len(rows),
        bytes=means(coded, "bytes"),
        bpp=means(coded, "bpp"),
        quality=means(coded, "quality"),
        encode_seconds=means(coded, "encode_seconds"),
        decode_seconds=means(coded, "decode_seconds"),
        values={metric.column: means(coded, metric.column) for metric in metrics},
    )


def bd_rate(
    codec: str, points: Sequence[CurvePoint], anchor: str, anchor_points: Sequence[CurvePoint], metric: Metric
) -> BDRate:
    """Compute the BD-rate of a codec against an anchor, from complete points.

    Bjøntegaard, VCEG-M33, 2001; pchip interpolation of the logarithmic rate as Herglotz et al. recommend, by their
    package `bjontegaard`.
    """
    ours, theirs = (_rates_and_values(chosen, metric) for chosen in (points, anchor_points))

    def refused(reason: str, overlap: float | None = None) -> BDRate:
        return BDRate(codec, anchor, metric.column, overlap=overlap, refused=reason)

    for name, found in ((codec, ours), (anchor, theirs)):
        if len(found) < MIN_POINTS:
            return refused(f"{name} has {len(found)} complete points; at least {MIN_POINTS} are needed")
        if any(after[1] <= before[1] for before, after in itertools.pairwise(found)):
            return refused(f"{metric.title} of {name} does not improve with every increase in rate")
    low, high = max(ours[0][1], theirs[0][1]), min(ours[-1][1], theirs[-1][1])
    whole = max(ours[-1][1], theirs[-1][1]) - min(ours[0][1], theirs[0][1])
    overlap = max(high - low, 0) / whole
    if overlap < MIN_OVERLAP:
        return refused(
            f"the curves overlap too little in {metric.title}: {100 * overlap:.0f}%",
            overlap,
        )
    os.environ.setdefault("MPLBACKEND", "agg")  # the package imports pyplot, which must not need a display
    from bjontegaard import bd_rate as bjontegaard

    percent = float(
        bjontegaard(
            [rate for rate, _ in theirs],
            [value for _, value in theirs],
            [rate for rate, _ in ours],
            [value for _, value in ours],
            method="pchip",
            require_matching_points=False,
            min_overlap=0,
        )
    )
    ends = (low, high) if metric.higher_is_better else (-high, -low)
    return BDRate(codec, anchor, metric.column, percent, overlap, ends)


def _rates_and_values(points: Sequence[CurvePoint], metric: Metric) -> list[tuple[float, float]]:
    """Return sorted pairs of bpp and metric, negated if lower is better."""
    pairs = set()
    for point in points:
        value = point.values.get(metric.column)
        if point.complete and point.bpp is not None and value is not None and math.isfinite(value):
            pairs.add((point.bpp, value if metric.higher_is_better else -value))
    return sorted(pairs)
