"""Log, checkpoints on disk and signals of a training run."""

from __future__ import annotations

import csv
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SHOWN_EVERY = 200  # training steps between two lines on standard output


class Log:
    """A CSV in long form: kind, step, seconds, name, value; a resumed run appends."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, kind: str, step: int, seconds: float, values: dict[str, float]) -> None:
        """Append a row for each value, and print validations and some of the steps."""
        new = not self.path.exists()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            rows = csv.writer(file, lineterminator="\n")
            if new:
                rows.writerow(["kind", "step", "seconds", "name", "value"])
            rows.writerows([kind, step, f"{seconds:.1f}", name, f"{value:.6g}"] for name, value in values.items())
        if kind == "validation" or step % SHOWN_EVERY == 0:
            print(f"{kind} {step} {seconds:.0f}s " + " ".join(f"{k} {v:.4g}" for k, v in values.items()), flush=True)


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint whole or not at all."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def load_weights(path: Path) -> dict[str, Tensor]:
    """Return the averaged weights of a checkpoint (`last.pt` or `best.pt`)."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    weights: dict[str, Tensor] = state.get("average", state["model"])
    return weights


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
