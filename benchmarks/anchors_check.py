"""Whether the harness measures classic codecs as others have: its means on Kodak's crops beside a table from other code.

sdcodec eval KODAK --crop 512 --codecs jpeg,webp,avif,jxl --bytes 2500,5000,10000,20000 --unreachable lowest --out DIR
python benchmarks/anchors_check.py DIR

The table (benchmarks/anchors.csv): largest integer quality whose file meets the nominal budget, the lowest quality where
none does, with its figures in the means; Pillow 13.0.0 and pillow-jxl-plugin 1.3.8, as pinned in constraints.txt.
Exit status 1 where a figure is further off than 0.02 dB or 0.002 LPIPS.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path

TABLE = Path(__file__).with_name("anchors.csv")
TOLERANCES = {"psnr": 0.02, "lpips_alex": 0.002}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the results of the run above")
    results = json.loads((parser.parse_args().folder / "results.json").read_text(encoding="utf-8"))
    points = {(c["label"], point["budget_bytes"]): point for c in results["codecs"] for point in c["points"]}
    print(f"{'codec':6} {'budget':>7} {'bytes':>15} {'met':>9} {'PSNR':>15} {'LPIPS-Alex':>17}    (here / table)")
    worst = dict.fromkeys(TOLERANCES, 0.0)
    missing = 0
    with TABLE.open(encoding="utf-8", newline="") as file:
        for expected in csv.DictReader(file):
            point = points.get((expected["codec"], int(expected["budget_bytes"])))
            if point is None or point["psnr"] is None:
                print(f"{expected['codec']:6} {expected['budget_bytes']:>7} not in these results")
                missing += 1
                continue
            for column in TOLERANCES:
                worst[column] = max(worst[column], abs(point[column] - float(expected[column])))
            met = point["pictures"] - point["unreachable"]
            print(
                f"{expected['codec']:6} {expected['budget_bytes']:>7} {point['bytes']:7.0f}/{expected['bytes']:>7} "
                f"{met:4d}/{expected['met']:>4} {point['psnr']:7.3f}/{expected['psnr']:>7} "
                f"{point['lpips_alex']:8.4f}/{expected['lpips_alex']:>8}"
            )
    if results["pictures"]["dataset"] != "Kodak" or results["pictures"]["count"] != 24:
        print("these are not the 24 pictures of Kodak: the figures need not agree")
        missing += 1
    print(f"largest differences: {worst['psnr']:.3f} dB, {worst['lpips_alex']:.4f} LPIPS; {missing} missing")
    return int(missing > 0 or any(worst[column] > TOLERANCES[column] for column in TOLERANCES))


if __name__ == "__main__":
    sys.exit(main())
