"""Time of `sdcodec encode` and `decode` on 40 images with one to three workers.

Images of mixed sizes are cut from one photograph. Each round runs every setting once in an own process, start included;
the table has the shortest time of each. All files must have the same bytes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

SIZES = ((256, 192), (512, 512), (481, 321), (1024, 768), (768, 512))
SETTINGS = {
    "1 worker, 1 thread": ("--workers", "1"),
    "1 worker, 2 threads": ("--workers", "1", "--threads", "2"),
    "2 workers, 1 thread": ("--workers", "2"),
    "3 workers, 1 thread": ("--workers", "3"),
}


def make_images(photograph: Path, count: int, folder: Path) -> int:
    """Write images of mixed sizes as PNG; return the sum of their pixels."""
    pixels = 0
    with Image.open(photograph) as opened:
        source = opened.convert("RGB")
    for index in range(count):
        width, height = SIZES[index % len(SIZES)]
        box = (index, index, source.width - index, source.height - index)
        source.resize((width, height), box=box).save(folder / f"{index:03}.png")
        pixels += width * height
    return pixels


def seconds(command: str, source: Path, target: Path, *options: str) -> tuple[float, float]:
    """Run a command on a folder; return its time, and that of the CPUs, in seconds."""
    words = [sys.executable, "-m", "sdcodec_cli", command, str(source), "-o", str(target), "--force", "--quiet"]
    start, before = time.perf_counter(), os.times()
    subprocess.run([*words, *options], check=True)
    elapsed, after = time.perf_counter() - start, os.times()
    return elapsed, sum(after[2:4]) - sum(before[2:4])


def main() -> None:
    """Print a table of times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photograph", type=Path, nargs="?", default=Path("images/raccoon.png"))
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        images = Path(name, "images")
        images.mkdir()
        pixels = make_images(arguments.photograph, arguments.count, images)
        times: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for _ in range(arguments.rounds):
            for label, options in SETTINGS.items():
                encoded, decoded = Path(name, label), Path(name, f"{label}, decoded")
                device = ("--device", arguments.device)
                for command, source, target in (("encode", images, encoded), ("decode", encoded, decoded)):
                    times.setdefault((command, label), []).append(seconds(command, source, target, *options, *device))
                contents = [path.read_bytes() for path in sorted(encoded.iterdir())]
                first = [path.read_bytes() for path in sorted(Path(name, next(iter(SETTINGS))).iterdir())]
                assert contents == first, f"{label}: other bytes"
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{arguments.count} images, {pixels / 1e6:.1f} megapixels, {os.cpu_count()} CPUs{load}\n")
    print("| command | setting | s | s of the CPUs | speed |\n|---|---|---|---|---|")
    for (command, label), found in times.items():
        elapsed, used = min(found)
        speed = min(times[command, next(iter(SETTINGS))])[0] / elapsed
        print(f"| {command} | {label} | {elapsed:.1f} | {used:.1f} | {speed:.2f} |")


if __name__ == "__main__":
    main()
