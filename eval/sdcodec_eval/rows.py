"""Rows of a run, one per image, codec and point; their journal and the CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sdcodec.files import append_lines
from sdcodec_eval.measuring import Metric
from sdcodec_eval.plan import Point

OK, UNREACHABLE, ERROR = "ok", "unreachable", "error"
JOURNAL = "rows.jsonl"
# Columns of every results.csv, in this order; columns of further metrics follow.
LEADING = ("image", "codec", "settings", "budget_bytes", "bytes", "bpp", "psnr", "ssim", "ms_ssim", "lpips_alex")
TRAILING = ("encode_seconds", "decode_seconds", "status", "quality", "width", "height", "file", "limit_bytes")
TIMINGS = ("encode_seconds", "decode_seconds")


@dataclass(frozen=True)
class Row:
    """Result of one codec on one image at one point.

    budget: in bytes; None in a run over qualities. limit: maximum length of the file in bytes, the budget or the
        length of the reference's file. quality: on the codec's scale.
    bytes: length of the file; file: its path in the results folder; both None without a file, then values is empty.
    values: metrics by column. encode_seconds: time for the kept file, with the search of codecs that meet a budget
        themselves. decode_seconds: time from bytes in memory to pixels.
    status: "ok"; "unreachable" if no quality meets the limit; "error: " and the reason in one line.
    """

    image: str
    codec: str
    settings: str
    budget: int | None
    quality: float | None
    status: str
    width: int | None = None
    height: int | None = None
    limit: int | None = None
    bytes: int | None = None
    file: str | None = None
    values: Mapping[str, float | None] = field(default_factory=dict)
    encode_seconds: float | None = None
    decode_seconds: float | None = None
    point: str = ""

    @property
    def bpp(self) -> float | None:
        """Return the bits of the file per pixel of the original."""
        return 8 * self.bytes / (self.width * self.height) if self.bytes and self.width and self.height else None

    @property
    def key(self) -> tuple[str, str, str]:
        """Return image, codec and point."""
        return self.image, self.codec, self.point

    def cells(self) -> dict[str, Any]:
        """Return the cells by column of the CSV; None for an empty cell."""
        values = {
            "image": self.image,
            "codec": self.codec,
            "settings": self.settings,
            "budget_bytes": self.budget,
            "bytes": self.bytes,
            "bpp": self.bpp,
            "encode_seconds": self.encode_seconds,
            "decode_seconds": self.decode_seconds,
            "status": self.status,
            "quality": self.quality,
            "width": self.width,
            "height": self.height,
            "file": self.file,
            "limit_bytes": self.limit,
        }
        return {**values, **self.values}


def error_status(error: BaseException) -> str:
    """Return the status of a failed row."""
    return f"{ERROR}: {' '.join(str(error).split()) or type(error).__name__}"


def columns(metrics: Iterable[Metric]) -> list[str]:
    """Return the columns of the CSV: the fixed ones, then the further metrics."""
    further = [metric.column for metric in metrics if metric.column not in LEADING]
    return [*LEADING, *TRAILING, *further]


def to_csv(rows: Iterable[Row], metrics: Sequence[Metric]) -> str:
    """Format the rows as CSV with a header."""
    names = columns(metrics)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        cells = row.cells()
        writer.writerow([_cell(name, cells.get(name)) for name in names])
    return text.getvalue()


def _cell(column: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        # Beyond six digits float32 networks depend on the number of threads.
        return f"{value:g}" if column == "quality" else f"{value:.4f}" if column in TIMINGS else f"{value:.6g}"
    return str(value)


@dataclass
class Record:
    """Content of one image's journal.

    rows: by key. ceilings: metrics by label. digest: of the pixels before cropping; None if the image is unreadable.
    """

    rows: dict[tuple[str, str, str], Row] = field(default_factory=dict)
    ceilings: dict[str, Mapping[str, float | None]] = field(default_factory=dict)
    digest: str | None = None

    @property
    def finished(self) -> int:
        """Number of rows without an error."""
        return sum(not row.status.startswith(ERROR) for row in self.rows.values())


class Journal:
    """Rows of one image on disk, one line each, appended by a single process.

    A line that a killed process left incomplete is dropped, and its row is computed again. Methods that
    append raise OutputError.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / JOURNAL
        self.record = read_journal(self._path)

    def add(self, row: Row) -> None:
        """Append a row whose file is complete."""
        self._append({"row": asdict(row)})
        self.record.rows[row.key] = row

    def add_digest(self, digest: str) -> None:
        """Append the digest of the image's pixels."""
        self._append({"digest": digest})
        self.record.digest = digest

    def add_ceiling(self, label: str, values: Mapping[str, float | None]) -> None:
        """Append the metrics of a codec's unquantised round trip."""
        self._append({"ceiling": label, "values": values})
        self.record.ceilings[label] = values

    def _append(self, line: Mapping[str, Any]) -> None:
        append_lines(self._path, json.dumps(line) + "\n")


def read_journal(path: Path) -> Record:
    """Read a journal; a missing one is empty."""
    record = Record()
    for line in _whole_lines(path):
        values = json.loads(line)
        if "row" in values:
            row = Row(**values["row"])
            record.rows[row.key] = row
        elif "ceiling" in values:
            record.ceilings[values["ceiling"]] = values["values"]
        else:
            record.digest = values["digest"]
    return record


def _whole_lines(path: Path) -> Iterator[str]:
    if path.exists():
        yield from path.read_text(encoding="utf-8").split("\n")[:-1]


def means(rows: Sequence[Row], column: str) -> float | None:
    """Return the mean of a column over rows; None if a cell is empty."""
    cells = [row.cells().get(column) for row in rows]
    if not cells or any(cell is None for cell in cells):
        return None
    return math.fsum(cell for cell in cells if cell is not None) / len(cells)


def in_order(records: Mapping[str, Record], labels: Sequence[str], points: Mapping[str, Sequence[Point]]) -> list[Row]:
    """Sort all rows by image, codec and point, whatever their order of computation."""
    return [
        record.rows[image, label, point.text]
        for image, record in records.items()
        for label in labels
        for point in points[label]
        if (image, label, point.text) in record.rows
    ]
