"""Tables of means and BD-rates in plain text."""

from __future__ import annotations

from sdcodec_eval.curves import CurvePoint
from sdcodec_eval.measuring import Metric
from sdcodec_eval.summary import Summary


def means_table(summary: Summary) -> str:
    """Format the means, one line per codec and point.

    The column `files` counts the images with a file; a star marks files that exceed the limit.
    """
    width = _width(summary)
    header = f"{'codec':{width}} {'at':>8} {'bytes':>9} {'bpp':>7} {'files':>8}"
    lines = [header + "".join(f" {metric.title:>12}" for metric in summary.metrics)]
    pictures = len(summary.pictures)
    for label, points in summary.curves.items():
        for point in points:
            lines.append(f"{label:{width}} {point.point.text:>8} {_figures(point, pictures, summary)}")
    if any(point.pictures and point.unreachable and summary.plan.unreachable == "lowest" for point in _points(summary)):
        lines.append("* includes files of the lowest quality that exceed the limit")
    return "\n".join(lines)


def bd_rate_table(summary: Summary) -> str:
    """Format the BD-rates, one line per codec; empty without another codec."""
    if not summary.bd_rates:
        return ""
    by_codec: dict[str, list[str]] = {}
    for found in summary.bd_rates:
        title = next(metric.title for metric in summary.metrics if metric.column == found.metric)
        cell = f"{title} none ({found.refused})"
        if found.percent is not None and found.overlap is not None:
            cell = f"{title} {found.percent:+.1f}% (overlap {100 * found.overlap:.0f}%)"
        by_codec.setdefault(found.codec, []).append(cell)
    lines = [f"BD-rate against {summary.anchor}; negative: fewer bytes at equal quality"]
    lines += [f"{codec:{_width(summary)}} {'; '.join(cells)}" for codec, cells in by_codec.items()]
    return "\n".join(lines)


def _width(summary: Summary) -> int:
    return max([14, *map(len, summary.curves)])


def _points(summary: Summary) -> list[CurvePoint]:
    return [point for points in summary.curves.values() for point in points]


def _figures(point: CurvePoint, pictures: int, summary: Summary) -> str:
    star = "*" if point.unreachable and summary.plan.unreachable == "lowest" else " "
    files = f"{point.pictures}/{pictures}{star}"
    if point.bytes is None or point.bpp is None:
        return f"{'':9} {'':7} {files:>8}"
    values = "".join(_cell(point, metric) for metric in summary.metrics)
    return f"{point.bytes:9.1f} {point.bpp:7.4f} {files:>8}{values}"


def _cell(point: CurvePoint, metric: Metric) -> str:
    value = point.values.get(metric.column)
    return f" {'':>12}" if value is None else f" {value:12.{3 if metric.unit == 'dB' else 4}f}"
