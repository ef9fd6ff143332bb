"""Publish a run of `sdcodec eval` in the documentation: tables, plots, pages.

    python benchmarks/publish.py RESULTS docs/results/kodak-crops README.md sdcodec/bundles/base/README.md

It copies CSV, JSON and plots, none of the images. In each page the lines between `<!-- NAME -->` and `<!-- end NAME
-->` become the table of means (NAME is the last part of the folder), so that no figure is typed by hand. Below it, on
whole Kodak, are published figures of other codecs. A page with the marks `NAME-bd` also has the BD-rates.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

COLUMNS = {
    "psnr": ("PSNR", 2),
    "ssim": ("SSIM", 3),
    "ms_ssim": ("MS-SSIM", 4),
    "ssimulacra2": ("SSIMULACRA 2", 1),
    "lpips_alex": ("LPIPS", 4),
    "lpips_vgg": ("LPIPS-VGG", 4),
    "dists": ("DISTS", 4),
}
BEYOND = 1.05  # share of the highest measured rate: limit of the published points
TITLES = {
    "sdcodec": "**sdcodec**",
    "refined": "**sdcodec**, refined",
    "jpeg": "JPEG",
    "webp": "WebP",
    "avif": "AVIF",
    "jxl": "JPEG XL",
}


def _columns(results: dict[str, Any]) -> dict[str, tuple[str, int]]:
    """Return the titles and digits of the metrics that were measured."""
    measured = {metric["column"] for metric in results["metrics"]}
    return {name: how for name, how in COLUMNS.items() if name in measured}


def markdown(results: dict[str, Any]) -> str:
    """Return a row for each point and codec, points first."""
    columns = _columns(results)
    first = "budget, bytes" if results["rate"] == "bytes" else "quality"
    lines = [
        f"| {first} | codec | files | mean bytes | bpp | " + " | ".join(title for title, _ in columns.values()) + " |",
        "|" + "---|" * (5 + len(columns)),
    ]
    order, pictures = [*TITLES], results["pictures"]["count"]
    codecs = sorted(  # stable: unknown ones stay in their order
        results["codecs"],
        key=lambda codec: order.index(codec["label"]) if codec["label"] in order else len(order),
    )
    by_budget = results["rate"] == "bytes"
    name = "budget_bytes" if by_budget else "quality"
    rows = [(point[name], codec, point) for codec in codecs for point in codec["points"]]
    for rate, codec, point in sorted(rows, key=lambda row: row[0] or 0):
        place = f"{rate:,}" if by_budget else f"{rate:g}"
        title = TITLES.get(codec["label"], codec["label"])
        if not point["pictures"]:
            lines.append(f"| {place} | {title} | none of {pictures} fits |" + " |" * (2 + len(columns)))
            continue
        values = [_number(point[name], f".{digits}f") for name, (_, digits) in columns.items()]
        files = f"{point['pictures']} of {pictures}" + ("*" if point["unreachable"] and point["complete"] else "")
        lines.append(
            f"| {place} | {title} | {files} | {point['bytes']:,.0f} | {point['bpp']:.4f} | {' | '.join(values)} |"
        )
    return "\n".join(lines + _published(results, columns))


def _published(results: dict[str, Any], columns: Mapping[str, tuple[str, int]]) -> list[str]:
    """Return a row for each published point within the measured range of rates."""
    highest = max((point["bpp"] or 0 for codec in results["codecs"] for point in codec["points"]), default=0)
    lines = []
    for curve in results["published"]:
        for point in curve["points"]:
            values = [f"{point[name]:.{digits}f}" if name in point else "" for name, (_, digits) in columns.items()]
            if point["bpp"] <= BEYOND * highest and any(values):
                lines.append(f"| published | {curve['name']} | | | {point['bpp']:.4f} | {' | '.join(values)} |")
    return lines


def bd_markdown(results: dict[str, Any]) -> str:
    """Return a row of BD-rates for each codec that has any.

    In percent, with the overlap of the curves' ranges.
    """
    columns = _columns(results)
    lines = [
        "| codec | " + " | ".join(title for title, _ in columns.values()) + " |",
        "|" + "---|" * (1 + len(columns)),
    ]
    for codec in results["codecs"]:
        found = {entry["metric"]: entry for entry in results["bd_rate"] if entry["codec"] == codec["label"]}
        cells = ["" if found[name]["refused"] else _bd_cell(found[name]) for name in columns if name in found]
        if any(cells):
            lines.append(f"| {TITLES.get(codec['label'], codec['label'])} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _bd_cell(entry: Mapping[str, Any]) -> str:
    return f"{_number(entry['percent'], '+.0f')}% ({100 * entry['overlap']:.0f}%)"


def _number(value: float, form: str) -> str:
    return format(value, form).replace("-", "\N{MINUS SIGN}")


def insert(page: Path, name: str, table: str, *, needed: bool = True) -> None:
    """Put the table between the page's marks; fail without marks if they are needed."""
    text = page.read_text(encoding="utf-8")
    marked = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end {re.escape(name)} -->)", re.DOTALL)
    if not marked.search(text):
        if not needed:
            return
        sys.exit(f"{page}: no lines <!-- {name} --> and <!-- end {name} --> in it")
    page.write_text(marked.sub(lambda found: f"{found[1]}{table}\n{found[2]}", text), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("destination", type=Path)
    parser.add_argument("pages", type=Path, nargs="*")
    options = parser.parse_args()
    options.destination.mkdir(parents=True, exist_ok=True)
    for name in ("results.csv", "results.json", "environment.json"):
        shutil.copyfile(options.results / name, options.destination / name)
    for plot in (options.results / "plots").glob("*.png"):
        shutil.copyfile(plot, options.destination / plot.name)
    results = json.loads((options.results / "results.json").read_text(encoding="utf-8"))
    for page in options.pages:
        insert(page, options.destination.name, markdown(results))
        insert(page, f"{options.destination.name}-bd", bd_markdown(results), needed=False)


if __name__ == "__main__":
    main()
