"""Check that threads and processes do not change results, and use constant memory.

    python benchmarks/threads.py
    python benchmarks/threads.py --pictures 200 --processes 1 --model ./model

Each picture is encoded and decoded, first all in one thread, then spread over processes, in each of which several
threads share one Codec. Files and pixels have to be the same, with as many threads of PyTorch for each call. From the
hundredth picture of a process on, its resident memory has to stay within 5%. Linux only.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

WARM_PICTURES = 100  # of a process, after which its memory is constant
TOLERANCE = 0.05
REFINED_EVERY, BUDGET_EVERY = 60, 20  # pictures between two with effort 4, and between two with a budget
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Share:
    """Results of a process.

    digests: of each picture's file and pixels, by its number. memory: resident bytes after each picture.
    """

    digests: dict[int, str]
    memory: list[int]

    def drift(self) -> tuple[float, float] | None:
        """Return the lowest and highest change of memory after the first 100 pictures.

        They are fractions of the memory then. None if there are no more pictures.
        """
        if len(self.memory) <= WARM_PICTURES:
            return None
        start, later = self.memory[WARM_PICTURES - 1], self.memory[WARM_PICTURES:]
        return min(later) / start - 1, max(later) / start - 1


def picture(number: int) -> np.ndarray:
    """Return the picture of a number, uint8 `[h, w]` or `[h, w, 3 or 4]`.

    Its sides have 33 to 64 pixels.
    """
    rng = np.random.default_rng(number)
    height, width = rng.integers(33, 65, 2)
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / a + b) * np.cos(y / c) for a, b, c in rng.uniform(3, 20, (4, 3))]
    noise = rng.normal(0, 6, (height, width, 4)) * (1, 1, 1, 0)
    pixels = (128 + 80 * np.stack(waves, axis=-1) + noise).clip(0, 255).astype(np.uint8)
    return pixels[..., 0] if number % 7 == 0 else pixels[..., : 4 if number % 5 == 0 else 3]


def work(first: int, step: int, options: argparse.Namespace, threads: int) -> Share:
    """Encode and decode every `step`-th picture, in threads that share one Codec.

    The first has the number `first`.
    """
    import torch

    from sdcodec import Codec

    torch.set_num_threads(options.torch_threads)
    codec = Codec(options.model, device="cpu")
    memory: list[int] = []

    def digest(number: int) -> str:
        effort = 4 if number % REFINED_EVERY == 1 else 0
        rate = {"target_bytes": 3000} if number % BUDGET_EVERY == 2 else {"quality": float(number % 101)}
        data = codec.encode(picture(number), effort=effort, **rate).data
        decoded = codec.decode(data)
        memory.append(int(Path("/proc/self/statm").read_text().split()[1]) * PAGE)
        return hashlib.sha256(data + f"{decoded.mode} {decoded.size}".encode() + decoded.tobytes()).hexdigest()

    numbers = range(first, options.pictures, step)
    with ThreadPoolExecutor(threads) as pool:
        return Share(dict(zip(numbers, pool.map(digest, numbers), strict=True)), memory)


def shares(options: argparse.Namespace, processes: int, threads: int) -> list[Share]:
    """Spread the pictures over new processes."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context) as pool:
        running = [pool.submit(work, first, processes, options, threads) for first in range(processes)]
        return [future.result() for future in running]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--threads", type=int, default=8, help="of a process, on one Codec")
    parser.add_argument("--torch-threads", type=int, default=1, help="of each call, within PyTorch")
    parser.add_argument("--model", default="base")
    options = parser.parse_args()
    print("| processes | threads | pictures | different | seconds | MB after 100 | memory after that |")
    print("|---|---|---|---|---|---|---|", flush=True)
    expected: dict[int, str] = {}
    failed = False
    for processes, threads in ((1, 1), (options.processes, options.threads)):
        start = time.monotonic()
        parts = shares(options, processes, threads)
        seconds = time.monotonic() - start
        found = {number: digest for part in parts for number, digest in part.digests.items()}
        expected = expected or found
        different = sum(found.get(number) != digest for number, digest in expected.items())
        drifts = [drift for drift in map(Share.drift, parts) if drift is not None]
        lowest, highest = min((low for low, _ in drifts), default=0), max((high for _, high in drifts), default=0)
        failed |= different > 0 or lowest < -TOLERANCE or highest > TOLERANCE
        warm = f"{max(part.memory[WARM_PICTURES - 1] for part in parts) / 1e6:.0f}" if drifts else "-"
        change = f"{lowest:+.1%} to {highest:+.1%}" if drifts else "-"
        print(
            f"| {processes} | {threads} | {len(found)} | {different} | {seconds:.0f} | {warm} | {change} |", flush=True
        )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
