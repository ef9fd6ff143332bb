"""Log and signals of a training run."""

from __future__ import annotations

import csv
import io
import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from sdcodec.files import append_lines

HEADER = "kind,step,seconds,name,value\n"
SHOWN_SECONDS = 10.0  # between two lines on standard output, at least


class Log:
    """A CSV in long form: kind, step, seconds, name, value; a resumed run appends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._shown = -math.inf

    def write(self, kind: str, step: int, seconds: float, values: dict[str, float], note: str = "") -> None:
        """Append a row for each value; print at most every 10 seconds, or validations."""
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerows([kind, step, f"{seconds:.1f}", name, f"{value:.6g}"] for name, value in values.items())
        append_lines(self.path, text.getvalue(), header=HEADER)
        if kind == "validation" or time.monotonic() - self._shown > SHOWN_SECONDS:
            if kind != "validation":
                self._shown = time.monotonic()
            shown = " ".join(f"{name} {value:.4g}" for name, value in values.items())
            print(f"{kind} {step} {seconds:.0f}s {shown}{note}", flush=True)


class Means:
    """Means over the steps since the last line of the log.

    Nothing waits for a GPU before `take`.
    """

    def __init__(self) -> None:
        self.count = 0
        self._sums: dict[str, Tensor] = {}

    def add(self, values: dict[str, Tensor]) -> None:
        """Add a step; if it does not count, its values are 0 and `skipped` is 1."""
        self.count += 1
        for name, value in values.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def take(self) -> dict[str, float]:
        """Return the means over the steps that count, and the share of skipped ones.

        The next means begin here.
        """
        sums = {name: float(value) for name, value in self._sums.items()}
        skipped = sums.pop("skipped")
        means = {name: value / max(1.0, self.count - skipped) for name, value in sums.items()}
        means["skipped"] = skipped / self.count
        self.forget()
        return means

    def forget(self) -> None:
        """Begin anew."""
        self.count, self._sums = 0, {}


@contextmanager
def stop_on_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of ending the program.

    The list has an item for each.
    """
    received: list[int] = []
    kept = {
        number: signal.signal(number, lambda n, _: received.append(n)) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield received
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
