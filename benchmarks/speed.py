"""Measure warm speed on the CPU, as ratios to WebP's and AVIF's encoders.

    python benchmarks/speed.py IMAGE... [--rounds 9] [--model base] [--precision auto]

Whole functions, from a PIL image of 512x512 to bytes and back. Everything is timed in turn within a round, and the
figures are medians over rounds and images, so that noise of a shared machine affects all alike.
"""

from __future__ import annotations

import argparse
import io
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from sdcodec import Codec
from sdcodec.bundles import store
from sdcodec_eval.pictures import centre_crop, collect, read

QUALITY = 45.0
BUDGET, LPIPS = 5000, 0.1
ENCODE = "sdcodec encode"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--model", default=store.DEFAULT)
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args()
    codec = Codec(options.model, device="cpu", precision=options.precision)
    times: dict[str, list[float]] = {}
    pictures = [Image.fromarray(centre_crop(read(source), 512)) for source in collect(options.images)]
    for image in pictures:
        data = codec.encode(image, quality=QUALITY).data
        tasks: dict[str, Callable[[], object]] = {
            ENCODE: lambda image=image: codec.encode(image, quality=QUALITY),
            f"{ENCODE} --bytes": lambda image=image: codec.encode(image, target_bytes=BUDGET),
            f"{ENCODE} --target-lpips": lambda image=image: codec.encode(image, target_lpips=LPIPS),
            f"{ENCODE} --effort 6": lambda image=image: codec.encode(image, quality=QUALITY, effort=6),
            "sdcodec decode": lambda data=data: codec.decode(data),
            "WebP encode": lambda image=image: _saved(image, "WEBP", quality=30, method=6),
            "AVIF encode": lambda image=image: _saved(image, "AVIF", quality=30, speed=4),
        }
        for task in tasks.values():
            task()
        for _ in range(options.rounds):
            for name, task in tasks.items():
                start = time.perf_counter()
                task()
                times.setdefault(name, []).append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"{'':33} {'ms':>8} {'MP/s':>7} {'/ WebP':>7} {'/ AVIF':>7}")
    for name, seconds in medians.items():
        webp, avif = seconds / medians["WebP encode"], seconds / medians["AVIF encode"]
        print(f"{name:33} {1000 * seconds:8.1f} {512 * 512 / 1e6 / seconds:7.2f} {webp:7.2f} {avif:7.2f}")
    search = medians[f"{ENCODE} --bytes"] / medians[ENCODE]
    print(f"a search for {BUDGET} bytes takes {search:.2f} times as long as an encode at a fixed quality")
    _commands(options.model, pictures[0], options.rounds)


def _saved(image: Image.Image, kind: str, **settings: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def _commands(model: str, image: Image.Image, rounds: int) -> None:
    """Time commands, started anew: alone, and two of them side by side."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image.save(folder / "a.png")
        sdcodec = [sys.executable, "-m", "sdcodec_cli"]
        chosen = ["--force", "--quiet"]
        encode = [*sdcodec, "encode", "a.png", "-q", str(QUALITY), "--model", model, *chosen, "-o"]
        commands = {
            "import torch": [sys.executable, "-c", "import torch"],
            "encode": [*encode, "a.sdc"],
            "decode": [*sdcodec, "decode", "a.sdc", "-o", "b.png", "--model", model, *chosen],
            "info": [*sdcodec, "info", "a.sdc"],
            "--help": [*sdcodec, "--help"],
            "--version": [*sdcodec, "--version"],
        }
        times: dict[str, list[float]] = {name: [] for name in (*commands, "two encodes side by side")}
        for _ in range(rounds):
            for label, command in commands.items():
                times[label].append(_seconds(folder, command))
            times["two encodes side by side"].append(_seconds(folder, commands["encode"], [*encode, "b.sdc"]))
    medians = {label: statistics.median(own) for label, own in times.items()}
    print("\n".join(f"{label:33} {seconds:8.2f} s" for label, seconds in medians.items()))
    print(
        f"encode takes {medians['encode'] - medians['import torch']:.2f} s more than import torch, two side by side "
        f"{medians['two encodes side by side'] / medians['encode']:.2f} times as long as one"
    )


def _seconds(folder: Path, *commands: list[str]) -> float:
    """Return the time until commands that are started together have ended."""
    start = time.perf_counter()
    running = [subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL) for command in commands]
    if sum(process.wait() for process in running):
        raise SystemExit(f"{commands}: failed")
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
