"""The report: a results folder as one HTML file that needs nothing else, with curves, tables and pictures to compare."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from sdcodec.files import atomic_write
from sdcodec_eval.report.page import render, worst_first
from sdcodec_eval.report.pictures import Decoder, gather
from sdcodec_eval.report.results import ResultsError, read_results
from sdcodec_eval.run import codecs_of

__all__ = ["MAX_BYTES", "ResultsError", "write_report"]

MAX_BYTES = 38_000_000  # of pictures in the page: it opens at once from disk, and can still be sent to someone


def write_report(folder: Path, *, max_bytes: int = MAX_BYTES, decode: Decoder | None = None) -> Path:
    """Writes `report.html` into a results folder, over an earlier one, and returns its path.

    max_bytes: how much of the page pictures may take; `pictures.gather` says what happens when they want more.
    decode: label and file to pixels, for files that browsers do not read; default: the codecs of the run.

    Raises ResultsError for an incomplete or damaged folder, OutputError where the page cannot be written.
    """
    results = read_results(folder)
    gallery = gather(results, worst_first(results), max_bytes, decode or _codecs(folder))
    target = folder / "report.html"
    atomic_write(target, render(results, gallery).encode("utf-8"), force=True)
    return target


def _codecs(folder: Path) -> Decoder:
    """The codecs of the run; made when the first file asks for it, since that loads networks."""
    codecs = cache(codecs_of)
    return lambda label, data: codecs(folder)[label].decode(data)
