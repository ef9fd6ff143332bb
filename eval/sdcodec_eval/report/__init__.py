"""Report: one HTML file with the curves, tables and images of a run."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from sdcodec.files import atomic_write
from sdcodec_eval.report.opening import worst_first
from sdcodec_eval.report.pictures import Decoder, gather
from sdcodec_eval.report.render import render
from sdcodec_eval.report.results import ResultsError, read_results
from sdcodec_eval.run import codecs_of

__all__ = ["MAX_BYTES", "ResultsError", "write_report"]

MAX_BYTES = 38_000_000  # of images in the page, so that it opens quickly and can be sent by mail


def write_report(folder: Path, *, max_bytes: int = MAX_BYTES, decode: Decoder | None = None) -> Path:
    """Write or replace `report.html` in a results folder; return its path.

    max_bytes: maximum size of the images in the page, as base64; `pictures.gather` describes the compression.
    decode: function from label and file to pixels, for files that browsers do not read; default: the run's codecs.

    Raises ResultsError for an incomplete or damaged folder, OutputError if the page cannot be written.
    """
    results = read_results(folder)
    gallery = gather(results, worst_first(results), max_bytes, decode or _codecs(folder))
    target = folder / "report.html"
    atomic_write(target, render(results, gallery).encode("utf-8"), force=True)
    return target


def _codecs(folder: Path) -> Decoder:
    """Return a decoder with the run's codecs, which are loaded for the first file."""
    codecs = cache(codecs_of)
    return lambda label, data: codecs(folder)[label].decode(data)
