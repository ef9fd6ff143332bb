"""Compare the harness's means of classic codecs with a table from other code.

    sdcodec eval KODAK --crop 512 --codecs jpeg,webp,avif,jxl --bytes 2500,5000,10000,20000 --unreachable lowest --out
    DIR python benchmarks/anchors_check.py DIR [--kodak KODAK]

The table (benchmarks/anchors.csv): largest integer quality whose file meets the nominal budget, or the lowest quality
if none does, with its figures in the means; Pillow 13.0.0 and pillow-jxl-plugin 1.3.8, as pinned in constraints.txt.

One difference is known. From quality 18 to 19 files of JPEG XL get shorter (of kodim06 by 7%, of kodim07 by 12%), so
that a larger quality may fit above one that does not. The harness looks for it; the table's search, plain bisection,
stopped below. So at 10,000 and 20,000 bytes the harness's JPEG XL is the better one. With --kodak these two rows are
computed again by plain bisection, and those means compared with the table.

The exit status is 1 if a figure differs by more than 0.02 dB or 0.002 LPIPS.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from functools import cache
from pathlib import Path

from sdcodec.measures import lpips, psnr
from sdcodec_eval.codecs.registry import build, parse
from sdcodec_eval.pictures import centre_crop, collect, read

TABLE = Path(__file__).with_name("anchors.csv")
TOLERANCES = {"psnr": 0.02, "lpips_alex": 0.002}
BISECTED = {("jxl", 10_000), ("jxl", 20_000)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the results of the run above")
    parser.add_argument("--kodak", type=Path, help="the pictures, for the rows that the table found by bisection")
    options = parser.parse_args()
    results = json.loads((options.folder / "results.json").read_text(encoding="utf-8"))
    points = {(c["label"], point["budget_bytes"]): point for c in results["codecs"] for point in c["points"]}
    wrong = [] if results["pictures"]["dataset"] == "Kodak" and results["pictures"]["count"] == 24 else ["not Kodak"]
    print(f"{'codec':6} {'budget':>7} {'bytes':>15} {'PSNR':>15} {'LPIPS-Alex':>17}    (here / table)")
    with TABLE.open(encoding="utf-8", newline="") as file:
        for expected in csv.DictReader(file):
            codec, budget = expected["codec"], int(expected["budget_bytes"])
            point = points.get((codec, budget))
            if point is None or point["psnr"] is None:
                wrong.append(f"{codec} {budget} is missing")
                continue
            agrees = _compare(point, expected)
            if not agrees and (codec, budget) in BISECTED and options.kodak:
                agrees = _compare(_bisected(options.kodak, codec, budget), expected, "  by plain bisection")
            if not agrees:
                wrong.append(f"{codec} {budget} differs")
    print("; ".join(wrong) or "all figures agree to 0.02 dB and 0.002 LPIPS")
    return int(bool(wrong))


def _compare(found: dict[str, float], expected: dict[str, str], note: str = "") -> bool:
    """Print a row of both; return whether they agree."""
    print(
        f"{expected['codec']:6} {expected['budget_bytes']:>7} {found['bytes']:7.0f}/{expected['bytes']:>7} "
        f"{found['psnr']:7.3f}/{expected['psnr']:>7} {found['lpips_alex']:8.4f}/{expected['lpips_alex']:>8}{note}",
        flush=True,
    )
    return all(abs(found[column] - float(expected[column])) <= TOLERANCES[column] for column in TOLERANCES)


def _bisected(folder: Path, name: str, budget: int) -> dict[str, float]:
    """Return the means over the images of files found by plain bisection.

    If no quality fits, it is the lowest.
    """
    codec, sums = build(parse(name)), {"bytes": 0.0, "psnr": 0.0, "lpips_alex": 0.0}
    sources = collect([folder])
    for source in sources:
        pixels = centre_crop(read(source), 512)
        encoded = cache(lambda quality, pixels=pixels: codec.encode(pixels, quality))
        low, high = 0, len(codec.qualities)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if len(encoded(middle)) <= budget else (low, middle)
        decoded = codec.decode(encoded(low))
        values = (len(encoded(low)), psnr(pixels, decoded), lpips(pixels, decoded))
        for column, value in zip(sums, values, strict=True):
            sums[column] += value / len(sources)
    return sums


if __name__ == "__main__":
    sys.exit(main())
