"""Rate-distortion curves, means over pictures, and what lies between two of them: BD-rate."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sdcodec_eval.measuring import Metric
from sdcodec_eval.plan import Point
from sdcodec_eval.rows import ERROR, UNREACHABLE, Row, means

FEWEST = 3  # points of a curve that BD-rate is computed from
SMALLEST_OVERLAP = 0.1  # of the range of qualities that either curve covers


@dataclass(frozen=True)
class CurvePoint:
    """Means over the pictures that have a file at a point.

    pictures: how many those are; unreachable and errors: how many rows have such a status; complete: no picture of the
        run is left out but those that no codec could read, so that points can be compared.
    values: metrics by column; None where a picture has none.
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
    """Bjøntegaard's difference in rate at equal quality; negative where the codec needs less than the anchor.

    overlap: the part that both curves cover of the range that either covers; range: that part, on the metric's scale.
    Where `refused` says why there is no figure, percent is None.
    """

    codec: str
    anchor: str
    metric: str
    percent: float | None = None
    overlap: float | None = None
    range: tuple[float, float] | None = None
    refused: str | None = None


def curve(rows: Sequence[Row], points: Sequence[Point], metrics: Sequence[Metric]) -> list[CurvePoint]:
    """The points of one codec's rows; `rows` are of the pictures that could be read."""
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
    """Of one codec against another by one metric, over their complete points; pchip interpolation of log-rate.

    (Bjøntegaard, VCEG-M33, 2001; interpolation as Herglotz et al. recommend, by their package `bjontegaard`.)
    """
    ours, theirs = (_rates_and_values(chosen, metric) for chosen in (points, anchor_points))

    def refused(reason: str, overlap: float | None = None) -> BDRate:
        return BDRate(codec, anchor, metric.column, overlap=overlap, refused=reason)

    for name, found in ((codec, ours), (anchor, theirs)):
        if len(found) < FEWEST:
            return refused(f"{name} has {len(found)} complete points; it takes {FEWEST}")
        if any(after[1] <= before[1] for before, after in itertools.pairwise(found)):
            return refused(f"{metric.title} of {name} does not get better with every step of rate")
    low, high = max(ours[0][1], theirs[0][1]), min(ours[-1][1], theirs[-1][1])
    whole = max(ours[-1][1], theirs[-1][1]) - min(ours[0][1], theirs[0][1])
    overlap = max(high - low, 0) / whole
    if overlap < SMALLEST_OVERLAP:
        return refused(f"the curves do not overlap enough in {metric.title}: {100 * overlap:.0f}%", overlap)
    os.environ.setdefault("MPLBACKEND", "agg")  # the package imports pyplot, and there may be no screen
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
    """Pairs of bpp and goodness (the metric, its sign turned where lower is better), ascending; equal rates once."""
    pairs = set()
    for point in points:
        value = point.values.get(metric.column)
        if point.complete and point.bpp is not None and value is not None and math.isfinite(value):
            pairs.add((point.bpp, value if metric.higher_is_better else -value))
    return sorted(pairs)
