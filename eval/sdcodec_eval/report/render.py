"""Rendering of the report: fill the template with results and images."""

from __future__ import annotations

import importlib.metadata
import shlex

import jinja2

from sdcodec_eval.report.data import page_data, script_json
from sdcodec_eval.report.figures import compact, figure, number, plain, signed
from sdcodec_eval.report.opening import headline_first, shown_codecs, start
from sdcodec_eval.report.pictures import Gallery
from sdcodec_eval.report.results import Results
from sdcodec_eval.report.sentences import (
    environment_lines,
    equal_bytes_note,
    gallery_note,
    lede,
    left_out_note,
    storage_note,
    title,
)
from sdcodec_eval.report.tables import bd_rate_table, means_table
from sdcodec_eval.rows import OK, UNREACHABLE

SCRIPTS = (
    "numbers.js",
    "theme.js",
    "tables.js",
    "plotting.js",
    "chart.js",
    "curves.js",
    "viewer.js",
    "comparisons.js",
    "rows.js",
    "main.js",
)
SMALL_SIDE = 640  # images up to this width are shown in two columns
VERSION = importlib.metadata.version("sdcodec")


def render(results: Results, gallery: Gallery) -> str:
    """Render the HTML of the report."""
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
        data=script_json(page_data(results, gallery, codecs)),
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
        footer=f"Written by sdcodec {VERSION}; all numbers come from the files of this run.",
        number=number,
    )
