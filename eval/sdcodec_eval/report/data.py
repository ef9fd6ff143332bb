"""Data of the page's scripts as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sdcodec_eval.report.opening import Shown, headline_first
from sdcodec_eval.report.pictures import Gallery
from sdcodec_eval.report.results import CodecResults, Results, Row


def page_data(results: Results, gallery: Gallery, codecs: Sequence[Shown]) -> dict[str, Any]:
    """Collect the data of the curves, the cards and the table of rows."""
    sizes = {row.image: (row.width, row.height) for row in results.rows if row.width and row.height}
    return {
        "metrics": [asdict(metric) | {"digits": metric.digits} for metric in headline_first(results)],
        "codecs": [_codec_data(codec, shown) for codec, shown in zip(results.codecs, codecs, strict=True)],
        "reference": results.reference.label,
        "budgets": results.budgets,
        "published": [
            {"name": curve.name, "source": curve.source, "points": curve.points} for curve in results.published
        ],
        "images": [
            {
                "name": name,
                "width": sizes[name][0],
                "height": sizes[name][1],
                "picture": f"o{number}" if f"o{number}" in gallery.pictures else None,
            }
            for number, name in enumerate(results.images)
            if name in sizes
        ],
        "rows": [_row_data(number, row, gallery) for number, row in enumerate(results.rows)],
    }


def _codec_data(codec: CodecResults, shown: Shown) -> dict[str, Any]:
    return {
        "label": shown.label,
        "name": shown.name,
        "slot": shown.slot,
        "ceiling": codec.ceiling,
        "points": [asdict(point) for point in codec.points],
    }


def _row_data(number: int, row: Row, gallery: Gallery) -> dict[str, Any]:
    key = f"r{number}"
    data = asdict(row)
    for name in ("file", "width", "height"):
        del data[name]
    return data | {"picture": key if key in gallery.pictures else None, "absent": gallery.absent.get(number)}


def script_json(data: Any) -> str:
    """Serialise to JSON for a script element; infinity becomes the string "inf"."""
    text = json.dumps(_without_inf(data), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _without_inf(data: Any) -> Any:
    if isinstance(data, float) and math.isinf(data):
        return "inf"
    if isinstance(data, Mapping):
        return {key: _without_inf(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_without_inf(value) for value in data]
    return data
