"""Plots of the curves as PNG files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sdcodec_eval.curves import CurvePoint
from sdcodec_eval.measuring import Metric
from sdcodec_eval.summary import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, distinguishable with any colour vision.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
MARKERS = "osD^vPX*"
OVERVIEW = ("lpips_alex", "dists", "ssimulacra2", "psnr")  # together in curves.png


def draw(summary: Summary) -> dict[str, bytes]:
    """Draw one PNG file per metric, and `curves.png` with the metrics of OVERVIEW."""
    shown = [metric for metric in summary.metrics if _has_values(summary, metric)]
    pictures = {f"{metric.column}.png": _figure(summary, [metric]) for metric in shown}
    if overview := [metric for column in OVERVIEW for metric in shown if metric.column == column]:
        pictures["curves.png"] = _figure(summary, overview)
    return pictures


def _has_values(summary: Summary, metric: Metric) -> bool:
    return any(_drawable(points, metric) for points in summary.curves.values())


def _drawable(points: Sequence[CurvePoint], metric: Metric) -> list[tuple[float, float, bool]]:
    """Return bpp, value and completeness of the points with a value, by rate."""
    found = [(point.bpp, point.values.get(metric.column), point.complete) for point in points]
    return sorted((bpp, value, whole) for bpp, value, whole in found if bpp is not None and value is not None)


def _figure(summary: Summary, metrics: Sequence[Metric]) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(2, len(metrics))
    rows = -(-len(metrics) // columns)
    figure = Figure(figsize=(5.6 * columns, 4.2 * rows), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    for number, metric in enumerate(metrics, 1):
        _draw_metric(figure.add_subplot(rows, columns, number), summary, metric)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _draw_metric(axes: Axes, summary: Summary, metric: Metric) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    for index, (label, points) in enumerate(summary.curves.items()):
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        found = _drawable(points, metric)
        whole, partial = ([point for point in found if point[2] is wanted] for wanted in (True, False))
        if whole:
            axes.plot(
                *zip(*[p[:2] for p in whole], strict=True), color=colour, marker=marker, ms=5, lw=1.8, label=label
            )
        if partial:  # means over fewer images are not comparable with the curve
            drawn = axes.plot(
                *zip(*[p[:2] for p in partial], strict=True), color=colour, marker=marker, ms=5, ls="none"
            )
            drawn[0].set_markerfacecolor("none")
            if not whole:
                drawn[0].set_label(label)
        ceiling = summary.ceilings.get(label, {}).get(metric.column)
        if ceiling is not None:
            axes.axhline(ceiling, color=colour, lw=1, ls=":", label=f"{label}, unquantised")
    for index, curve in enumerate(summary.published):
        pairs = [(point["bpp"], point[metric.column]) for point in curve.points if metric.column in point]
        if pairs:
            style = ("--", "-.", ":")[index % 3]
            axes.plot(
                *zip(*pairs, strict=True),
                color="0.45",
                ls=style,
                marker=MARKERS[index % 8],
                ms=3,
                lw=1,
                label=f"{curve.name}*",
            )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("bits per pixel of the whole file" + ("; * as published" if summary.published else ""))
    axes.set_ylabel(f"{metric.label}, {'higher' if metric.higher_is_better else 'lower'} is better")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
