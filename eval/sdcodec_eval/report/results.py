"""Reader of a results folder: rows, curves and environment as typed values."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdcodec.errors import SdcodecError
from sdcodec_eval.curves import BDRate
from sdcodec_eval.published import PublishedCurve
from sdcodec_eval.run import ENVIRONMENT, RESULTS, TABLE
from sdcodec_eval.summary import SCHEMA

HEADLINE = "lpips_alex"


class ResultsError(SdcodecError):
    """A results folder is incomplete, damaged, or written by a later version."""


@dataclass(frozen=True)
class Metric:
    """Metric of the results: column, display name, unit and direction."""

    column: str
    name: str
    unit: str
    higher_is_better: bool

    @property
    def digits(self) -> int:
        """Return the decimals to print: 2 for decibels and scores, 4 for ratios."""
        return 2 if self.unit or self.column == "ssimulacra2" else 4


@dataclass(frozen=True)
class Row:
    """Row of results.csv; None for an empty cell, inf for the PSNR of equal images."""

    image: str
    codec: str
    budget: int | None
    limit: int | None
    quality: float | None
    status: str
    bytes: int | None
    bpp: float | None
    values: Mapping[str, float | None]
    encode_seconds: float | None
    decode_seconds: float | None
    width: int | None
    height: int | None
    file: str


@dataclass(frozen=True)
class Point:
    """Means of one codec over images at one budget or quality.

    pictures: number of images in the means, of `total`. unreachable: number of images for which no quality meets the
    limit; they are left out, or included with their smallest file. complete: no image is left out.
    """

    budget: int | None
    quality: float | None
    pictures: int
    unreachable: int
    errors: int
    total: int
    complete: bool
    bytes: float | None
    bpp: float | None
    values: Mapping[str, float | None]
    encode_seconds: float | None
    decode_seconds: float | None

    @property
    def fair(self) -> bool:
        """Check whether every image met the budget, so that the means are comparable."""
        return self.complete and not self.unreachable


@dataclass(frozen=True)
class CodecResults:
    """Codec of the run: label, settings, curve, and ceiling of its transform, or {}."""

    label: str
    codec: str
    settings: Mapping[str, Any]
    reference: bool
    points: tuple[Point, ...]
    ceiling: Mapping[str, float | None]


@dataclass(frozen=True)
class Results:
    """Content of a results folder."""

    folder: Path
    rows: tuple[Row, ...]
    metrics: tuple[Metric, ...]
    codecs: tuple[CodecResults, ...]
    budgets: tuple[int, ...]
    dataset: str | None
    crop: int | None
    anchor: str | None
    bd_rate: tuple[BDRate, ...]
    published: tuple[PublishedCurve, ...]
    published_note: str
    environment: Mapping[str, Any]

    @property
    def images(self) -> list[str]:
        """Return the names in the order of the CSV, with those of unreadable inputs."""
        return list(dict.fromkeys(row.image for row in self.rows))

    @property
    def readable_images(self) -> list[str]:
        """Return the names of the images that could be read."""
        return list(dict.fromkeys(row.image for row in self.rows if row.width))

    @property
    def reference(self) -> CodecResults:
        """Return the codec that meets the budget first, or else the first of the run."""
        return next((codec for codec in self.codecs if codec.reference), self.codecs[0])

    @property
    def headline(self) -> Metric:
        """Return LPIPS-Alex if it was measured, else the first metric of the run."""
        return next((metric for metric in self.metrics if metric.column == HEADLINE), self.metrics[0])


def read_results(folder: Path) -> Results:
    """Read a results folder; raise ResultsError if it is incomplete or damaged."""
    summary = _json(folder / RESULTS)
    if summary.get("schema") != SCHEMA:
        raise ResultsError(f"{folder / RESULTS}: the schema {summary.get('schema')!r} is unknown; update sdcodec")
    try:
        metrics = tuple(
            Metric(entry["column"], entry["title"], entry["unit"], entry["better"] == "higher")
            for entry in summary["metrics"]
        )
        columns = [metric.column for metric in metrics]
        lowest = summary["unreachable"] == "lowest"
        codecs = tuple(_codec(entry, columns, lowest) for entry in summary["codecs"])
        pictures = summary["pictures"]
        results = Results(
            folder=folder,
            rows=_rows(folder / TABLE, columns),
            metrics=metrics,
            codecs=codecs,
            budgets=tuple(summary["budgets"]),
            dataset=pictures["dataset"],
            crop=pictures["crop"],
            anchor=summary["anchor"],
            bd_rate=tuple(_bd_rate(entry) for entry in summary["bd_rate"]),
            published=tuple(_published(entry) for entry in summary["published"]),
            published_note=summary["published_note"] or "",
            environment=_json(folder / ENVIRONMENT),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ResultsError(f"{folder}: the results are damaged ({error!r}); run the evaluation again") from error
    if not results.codecs or not results.metrics or not results.rows:
        raise ResultsError(f"{folder}: the results have no codec, no metric or no image; run the evaluation again")
    return results


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ResultsError(
            f"{path}: cannot be read ({error.strerror}); a complete run of `sdcodec eval` writes it"
        ) from error
    except ValueError as error:
        raise ResultsError(f"{path}: is damaged ({error}); run the evaluation again") from error
    if not isinstance(data, dict):
        raise ResultsError(f"{path}: is damaged (not an object); run the evaluation again")
    return data


def _rows(path: Path, columns: list[str]) -> tuple[Row, ...]:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return tuple(_row(cells, columns) for cells in csv.DictReader(file))
    except OSError as error:
        raise ResultsError(
            f"{path}: cannot be read ({error.strerror}); a complete run of `sdcodec eval` writes it"
        ) from error


def _row(cells: Mapping[str, str], columns: list[str]) -> Row:
    return Row(
        image=cells["image"],
        codec=cells["codec"],
        budget=_integer(cells["budget_bytes"]),
        limit=_integer(cells.get("limit_bytes")),
        quality=_number(cells["quality"]),
        status=cells["status"],
        bytes=_integer(cells["bytes"]),
        bpp=_number(cells["bpp"]),
        values={column: _number(cells.get(column)) for column in columns},
        encode_seconds=_number(cells["encode_seconds"]),
        decode_seconds=_number(cells["decode_seconds"]),
        width=_integer(cells["width"]),
        height=_integer(cells["height"]),
        file=cells["file"],
    )


def _number(cell: str | None) -> float | None:
    value = float(cell) if cell else math.nan
    return None if math.isnan(value) else value


def _integer(cell: str | None) -> int | None:
    value = _number(cell)
    return None if value is None else int(value)


def _codec(entry: Mapping[str, Any], columns: list[str], lowest: bool) -> CodecResults:
    return CodecResults(
        label=entry["label"],
        codec=entry["codec"],
        settings=entry["settings"],
        reference=entry["reference"],
        points=tuple(_point(point, columns, lowest) for point in entry["points"]),
        ceiling=entry["ceiling"] or {},
    )


def _point(point: Mapping[str, Any], columns: list[str], lowest: bool) -> Point:
    return Point(
        budget=point["budget_bytes"],
        quality=point["quality"],
        pictures=point["pictures"],
        unreachable=point["unreachable"],
        errors=point["errors"],
        total=point["pictures"] + point["errors"] + (0 if lowest else point["unreachable"]),
        complete=point["complete"],
        bytes=point["bytes"],
        bpp=point["bpp"],
        values={column: point.get(column) for column in columns},
        encode_seconds=point["encode_seconds"],
        decode_seconds=point["decode_seconds"],
    )


def _bd_rate(entry: Mapping[str, Any]) -> BDRate:
    common = entry["range"]
    return BDRate(
        codec=entry["codec"],
        anchor=entry["anchor"],
        metric=entry["metric"],
        percent=entry["percent"],
        overlap=entry["overlap"],
        range=(common[0], common[1]) if common else None,
        refused=entry["refused"],
    )


def _published(entry: Mapping[str, Any]) -> PublishedCurve:
    points = tuple(dict(point) for point in entry["points"])
    return PublishedCurve(entry["name"], entry["source"], entry["note"], points)
