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
BUDGET = 5000
QUICKLY = "sdcodec encode --effort 0"


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
        data = codec.encode(image, quality=QUALITY, effort=0).data
        tasks: dict[str, Callable[[], object]] = {
            QUICKLY: lambda image=image: codec.encode(image, quality=QUALITY, effort=0),
            f"{QUICKLY} --bytes": lambda image=image: codec.encode(image, target_bytes=BUDGET, effort=0),
            "sdcodec encode": lambda image=image: codec.encode(image, quality=QUALITY),
            "sdcodec encode --bytes": lambda image=image: codec.encode(image, target_bytes=BUDGET),
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
    search = medians[f"{QUICKLY} --bytes"] / medians[QUICKLY]
    print(
        f"a search for {BUDGET} bytes takes {search:.2f} times as long as an encode at a fixed quality, both at effort 0"
    )
    _command(codec, options.model, pictures[0], options.rounds)


def _saved(image: Image.Image, kind: str, **settings: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def _command(codec: Codec, model: str, image: Image.Image, rounds: int) -> None:
    """Time the `decode` command, started anew, against Python and importing PyTorch."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "picture.sdc")
        file.write_bytes(codec.encode(image, quality=QUALITY, effort=0).data)
        commands = {
            "import torch": ["-c", "import torch"],
            "decode command": [
                "-m",
                "sdcodec_cli",
                "decode",
                str(file),
                "-o",
                str(file) + ".png",
                "--model",
                model,
                "--force",
                "--quiet",
            ],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(rounds):
            for name, arguments in commands.items():
                start = time.perf_counter()
                subprocess.run([sys.executable, *arguments], check=True)
                times[name].append(time.perf_counter() - start)
    torch_alone, decode = (statistics.median(values) for values in times.values())
    print(f"decode command {decode:.2f} s, import torch {torch_alone:.2f} s: {decode / torch_alone:.2f} times")


if __name__ == "__main__":
    main()
