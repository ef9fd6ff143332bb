"""The pictures that training keeps for validation, as PNG files: what a choice between models is judged on, never Kodak.

    python benchmarks/validation_pictures.py FOLDER OUT [--count 24] [--side 384]
    sdcodec eval OUT --codecs sdcodec --codec denoised=sdcodec,model=M,denoise=1 --bytes 1406 --metrics psnr,lpips,dists --out r

FOLDER holds training pictures; the middles of those for validation that are large enough are taken, evenly spread over them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from effort import crops


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--side", type=int, default=384)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    chosen = crops(options.folder, options.count, options.side)
    for index, pixels in enumerate(chosen):
        Image.fromarray(pixels).save(options.out / f"{index:03}.png")
    print(f"{len(chosen)} pictures of {options.side}x{options.side} in {options.out}")


if __name__ == "__main__":
    main()
