"""Print a table of Kodak's centre crops at byte budgets; fail if one is not met.

    python benchmarks/kodak.py FOLDER [--bytes 2500 5000 10000] [--codecs jpeg webp avif jxl] [--model base] [--out
    DIR]

A short cut to `sdcodec eval`; with --out the results are kept there.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from sdcodec.bundles import store
from sdcodec.errors import SdcodecError
from sdcodec_eval.codecs.registry import CLASSIC, CodecSpec, parse
from sdcodec_eval.pictures import collect
from sdcodec_eval.plan import Plan
from sdcodec_eval.rows import OK
from sdcodec_eval.run import evaluate
from sdcodec_eval.summary import Summary
from sdcodec_eval.tables import means_table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bytes", type=int, nargs="+", default=[2500, 5000, 10000])
    parser.add_argument("--codecs", nargs="*", choices=CLASSIC, default=[])
    parser.add_argument("--model", default=store.DEFAULT)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--out", type=Path, help="write the tables and the files here")
    options = parser.parse_args()
    ours = CodecSpec("sdcodec", "sdcodec", {"model": options.model, "precision": options.precision})
    plan = Plan(
        (ours, *map(parse, options.codecs)),
        budgets=tuple(options.bytes),
        crop=512,
        metrics=("psnr", "ssim", "lpips"),
        ceiling=False,
    )
    with TemporaryDirectory() as temporary:
        try:
            summary = evaluate(plan, collect([options.folder]), options.out or Path(temporary), force=True)
        except SdcodecError as error:
            print(error, file=sys.stderr)
            return 1
    fingerprint = summary.codecs["sdcodec"].settings["fingerprint"]
    print(f"{len(summary.pictures)} pictures, model {options.model} {fingerprint}\n{means_table(summary)}")
    for budget in plan.budgets:
        print(f"worst by LPIPS at {budget}: {_worst(summary, budget)}")
    return int(any(row.status != OK for row in summary.rows if row.codec == "sdcodec"))


def _worst(summary: Summary, budget: int) -> str:
    found = [
        (value, row.image)
        for row in summary.rows
        if row.codec == "sdcodec" and row.budget == budget and (value := row.values.get("lpips_alex")) is not None
    ]
    return ", ".join(f"{image} {value:.3f}" for value, image in sorted(found, reverse=True)[:3])


if __name__ == "__main__":
    sys.exit(main())
