"""The page: results and pictures poured into the template, with words for a reader around them."""

from __future__ import annotations

import importlib.metadata
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jinja2

from sdcodec_eval.report.pictures import Gallery
from sdcodec_eval.report.results import OK, UNREACHABLE, BdRate, CodecResults, Metric, Point, Results, Row

SPELLINGS = {"jpeg": "JPEG", "webp": "WebP", "avif": "AVIF", "jxl": "JPEG XL"}
SCRIPTS = ("numbers.js", "theme.js", "tables.js", "curves.js", "viewer.js", "comparisons.js", "rows.js", "main.js")
SMALL_SIDE = 640  # pictures up to so wide stand two in a row
MISSING = "–"
VERSION = importlib.metadata.version("sdcodec")


@dataclass(frozen=True)
class Shown:
    """A codec as the page shows it: its name in prose and its colour's number, the reference always having the first."""

    label: str
    name: str
    slot: int
    codec: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class MeansLine:
    """A row of the table of means; `first` begins a group of one budget, `best` are columns where this codec leads."""

    name: str
    slot: int
    point: Point
    first: bool
    best: frozenset[str]


def render(results: Results, gallery: Gallery) -> str:
    """The HTML of the report."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sdcodec_eval.report", "page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(figure=figure, compact=compact, signed=signed, plain=plain)
    assert environment.loader is not None

    def source(name: str) -> str:
        return environment.loader.get_source(environment, name)[0]  # type: ignore[union-attr]

    codecs = shown_codecs(results)
    names = {codec.label: codec.name for codec in codecs}
    shown_images = [f"o{number}" in gallery.pictures for number in range(len(results.images))]
    widths = [row.width for row in results.rows if row.width]
    return environment.get_template("report.html").render(
        version=VERSION,
        title=title(results, codecs),
        lede=lede(results, codecs),
        style=source("report.css"),
        script="\n".join(source(name) for name in SCRIPTS),
        data=_script_json(page_data(results, gallery, codecs)),
        pictures=gallery.pictures,
        budgets=results.budgets,
        metrics=headline_first(results),
        codecs=codecs,
        names=names,
        problems=[row for row in results.rows if row.status not in (OK, UNREACHABLE)],
        any_partial=any(not point.complete for codec in results.codecs for point in codec.points if point.pictures),
        published=results.published,
        published_note=results.published_note,
        means=means_table(results, codecs),
        bd_rate=bd_rate_table(results, codecs),
        shown_images=any(shown_images),
        gallery_note=gallery_note(results, names, sum(shown_images)),
        storage_note=storage_note(results, gallery, names),
        left_out=left_out_note(results, gallery),
        small_pictures=max(widths, default=0) <= SMALL_SIDE,
        start=start(results, codecs),
        row_count=f"{len(results.rows):,}",
        equal_bytes=equal_bytes_note(results, names),
        environment=environment_lines(results.environment),
        command=shlex.join(results.environment.get("command") or []),
        footer=f"Written by sdcodec {VERSION} from the files of this run; every number is theirs.",
        number=number,
    )


def worst_first(results: Results) -> list[str]:
    """Images by the reference codec's headline metric at the size that the page opens with; unmeasured ones first."""
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
    """The budget, or the reference's quality, that the page opens with: the middle one, of two the lower."""
    points = _points(results)
    return points[(len(points) - 1) // 2]


def _points(results: Results) -> list[float]:
    if results.budgets:
        return list(results.budgets)
    return [point.quality for point in results.reference.points if point.quality is not None] or [0]


def headline_first(results: Results) -> list[Metric]:
    """The metrics as the page orders them; the others as in the run."""
    return sorted(results.metrics, key=lambda metric: metric != results.headline)


def shown_codecs(results: Results) -> list[Shown]:
    """The codecs in the order of the run."""
    others = [codec.label for codec in results.codecs if codec is not results.reference]
    slots = {results.reference.label: 0} | {label: slot for slot, label in enumerate(others, start=1)}
    return [
        Shown(codec.label, SPELLINGS.get(codec.label, codec.label), slots[codec.label], codec.codec, codec.settings)
        for codec in results.codecs
    ]


def start(results: Results, codecs: Sequence[Shown]) -> dict[str, Any]:
    """What the page's controls are set to at first: the reference on the right, its strongest rival on the left."""
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


# Words


def title(results: Results, codecs: Sequence[Shown]) -> str:
    """What was compared, on what, at which sizes."""
    names = _series([codec.name for codec in codecs]) if len(codecs) <= 6 else f"{len(codecs)} codecs"
    images = results.readable_images
    pictures = f"the picture {images[0]}" if len(images) == 1 else f"{len(images)} pictures"
    if results.dataset:
        pictures += f" of {results.dataset}"
    if not results.budgets:
        counts = {len(codec.points) for codec in results.codecs}
        return f"{names} on {pictures}, at {counts.pop() if len(counts) == 1 else 'several'} qualities each"
    if len(results.budgets) > 5:
        low, high = min(results.budgets), max(results.budgets)
        return f"{names} on {pictures}, at {len(results.budgets)} sizes from {low:,} to {high:,} bytes"
    return f"{names} on {pictures}, at {_series([f'{budget:,}' for budget in results.budgets])} bytes"


def lede(results: Results, codecs: Sequence[Shown]) -> str:
    """The size of the pictures, and the headline metric at the opening budget, or BD-rates where there are no budgets."""
    sentences = []
    if results.crop:
        sentences.append(f"Centre crops of {results.crop} × {results.crop} pixels.")
    if results.budgets:
        metric, budget = results.headline, start_point(results)
        found = []
        for codec, shown in zip(results.codecs, codecs, strict=True):
            point = next((point for point in codec.points if point.budget == budget), None)
            value = point.values[metric.column] if point else None
            if point is not None and value is not None:
                partial = "" if point.complete else f" (on {point.pictures} of {point.total} only)"
                found.append((value, f"{shown.name} {figure(value, 3)}{partial}"))
        if found:
            found.sort(reverse=metric.higher_is_better)
            better = "higher" if metric.higher_is_better else "lower"
            means = ", ".join(text for _, text in found)
            sentences.append(f"Mean {metric.name} at {budget:,} bytes, {better} is better: {means}.")
    elif rates := [
        (entry.percent, f"{shown.name} {signed(entry.percent)} %")
        for shown in codecs
        for entry in results.bd_rate
        if entry.codec == shown.label and entry.metric == results.headline.column and entry.percent is not None
    ]:
        anchor = SPELLINGS.get(results.anchor or "", results.anchor)
        said = ", ".join(text for _, text in sorted(rates))
        sentences.append(f"BD-rate against {anchor} by {results.headline.name}, negative is fewer bytes: {said}.")
    return " ".join(sentences) or "Means over pictures, and every picture beside its original."


def gallery_note(results: Results, names: Mapping[str, str], count: int) -> str:
    """What a card shows."""
    pictures = "One picture" if count == 1 else f"{count} pictures"
    if results.budgets:
        return f"{pictures}, two codecs at a time at equal bytes, or the original."
    reference = names[results.reference.label]
    return (
        f"{pictures}, two codecs at a time, or the original: {reference} at the chosen quality, "
        "the others with the file that is nearest to it in length."
    )


def storage_note(results: Results, gallery: Gallery, names: Mapping[str, str]) -> str:
    """How the pictures are stored in the page, and what that costs them."""
    real, pixels = [], []
    for codec in results.codecs:
        kinds = {
            gallery.pictures[f"r{number}"].from_pixels
            for number, row in enumerate(results.rows)
            if row.codec == codec.label and f"r{number}" in gallery.pictures
        }
        if False in kinds:
            real.append(names[codec.label])
        if True in kinds:
            pixels.append(names[codec.label])
    note = f"This page holds the real files of {_series(real)}, which the browser decodes. " if real else ""
    what = f"The originals and the pixels decoded from files of {_series(pixels)}" if pixels else "The originals"
    if math.isinf(gallery.worst_psnr):
        return f"{note}{what} are stored losslessly."
    kept = f"as AVIF 4:4:4 at quality {gallery.quality}, to keep the page small" if gallery.quality else "as AVIF 4:4:4"
    return (
        f"{note}{what} are stored {kept}: at least {gallery.worst_psnr:.1f} dB PSNR from the pixels that were measured."
    )


def left_out_note(results: Results, gallery: Gallery) -> str:
    """Which pictures did not fit into the page."""
    if not gallery.left_out:
        return ""
    names = ", ".join(gallery.left_out[:12]) + (" and so on" if len(gallery.left_out) > 12 else "")
    return (
        f"To keep the page small, {len(gallery.left_out)} of {len(results.images)} pictures are in the tables only, "
        f"those with the best {results.headline.name}: {names}. Their files are in the results folder."
    )


def equal_bytes_note(results: Results, names: Mapping[str, str]) -> str:
    """How sizes were made equal."""
    if not any(codec.reference for codec in results.codecs):
        return (
            "Equal bytes: every codec has the largest quality whose file meets the budget; where none does, it says so."
        )
    name = names[results.reference.label]
    return (
        f"Equal bytes: {name} meets the budget first; every other codec has the largest quality whose file is not longer "
        f"than {name}’s. Where none is so short, it says so."
    )


def environment_lines(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values for the list; codecs have a table of their own, and the pictures' checksums stay in `environment.json`."""
    options = {key: value for key, value in (environment.get("options") or {}).items() if key != "codecs"}
    rest = {key: value for key, value in environment.items() if key not in ("command", "images", "options")}
    return [
        (key.replace("_", " "), plain(value))
        for key, value in (options | rest).items()
        if value is not None and value not in ([], {})
    ]


# Tables


def means_table(results: Results, codecs: Sequence[Shown]) -> list[MeansLine]:
    """Lines by budget, then codec; or, over qualities, by codec, then quality."""
    pairs = [
        (shown, point)
        for codec, shown in zip(results.codecs, codecs, strict=True)
        for point in sorted(codec.points, key=lambda point: (point.budget or 0, point.quality or 0))
    ]
    if results.budgets:
        pairs.sort(key=lambda pair: pair[1].budget or 0)  # stable: codecs stay in their order
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
    """A line for each codec but the anchor, a cell for each metric."""
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


def _bd_cell(entry: BdRate | None, metric: Metric) -> dict[str, Any] | None:
    return None if entry is None else asdict(entry) | {"digits": metric.digits}


# Data for the scripts


def page_data(results: Results, gallery: Gallery, codecs: Sequence[Shown]) -> dict[str, Any]:
    """What curves, cards and the table of rows are made from."""
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


def _script_json(data: Any) -> str:
    """JSON that may stand in a script element; endless numbers become strings, since JSON has none."""
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


# Figures


def figure(value: float | None, digits: int) -> str:
    """A number for reading."""
    if value is None:
        return MISSING
    return "∞" if math.isinf(value) else f"{value:,.{digits}f}"


def compact(value: float | None) -> str:
    """A budget or a quality: no more decimals than it has."""
    return MISSING if value is None else f"{value:,.10g}"


def signed(value: float) -> str:
    """A percentage with a sign; the minus is a real one."""
    return f"{value:+.1f}".replace("-", "−")


def number(value: float | None) -> str:
    """A number for sorting: empty where there is none."""
    if value is None:
        return ""
    return "Infinity" if math.isinf(value) else f"{value:.10g}"


def plain(value: Any) -> str:
    """Any value of a JSON file in one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(plain(inner) for inner in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return MISSING if value is None else str(value)


def _series(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
