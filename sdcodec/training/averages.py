"""Store the averaged weights of a run in a few small files.

They are copied quickly from a machine that is lent for a short time.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sdcodec.errors import TrainingError
from sdcodec.files import atomic_write, write_whole

LARGEST_FILE = 15_000_000  # bytes of tensors in a file
LARGEST_HEADER = 200_000  # bytes of names and shapes in it
MOST_FILES = 8
RUN = "run.json"
NAME = re.compile(r"average-(\d+)-(\d+)of(\d+)\.safetensors")


@dataclass(frozen=True)
class Averages:
    """Weights by the names of `TrainingModel`, with step and description of a run."""

    weights: dict[str, Tensor]
    step: int
    description: dict[str, Any]


def save_averages(folder: Path, averages: Averages) -> None:
    """Write the weights in files of at most 15 MB, and the description.

    Files of earlier steps are deleted.

    Weights are float32; float16 if they would need more than eight files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = _parts(averages.weights)
    if len(parts) > MOST_FILES:
        parts = _parts({name: value.half() for name, value in averages.weights.items()})
    kept = set()
    for number, part in enumerate(parts, start=1):
        path = folder / f"average-{averages.step}-{number}of{len(parts)}.safetensors"
        write_whole(path, partial(save_file, part))
        kept.add(path.name)
    atomic_write(folder / RUN, (json.dumps(averages.description, indent=1) + "\n").encode(), force=True)
    for path in folder.iterdir():
        if NAME.fullmatch(path.name) and path.name not in kept:
            path.unlink()


def has_averages(folder: Path) -> bool:
    """Return whether the folder has a complete set of weights."""
    return bool(_complete_sets(folder))


def load_averages(folder: Path) -> Averages:
    """Return the newest complete set of weights in the folder.

    Raises TrainingError if there is none, or if a file is damaged.
    """
    complete = _complete_sets(folder)
    if not complete:
        raise TrainingError(
            f"{folder}: no complete set of averaged weights; copy all files of this folder from the run"
        )
    newest = max(complete)
    weights: dict[str, Tensor] = {}
    for path in complete[newest]:
        try:
            weights |= {name: value.float() for name, value in load_file(path).items()}
        except (OSError, SafetensorError) as error:
            raise TrainingError(f"{path}: cannot be read ({error}); copy it from the run again") from error
    return Averages(weights, newest, _description(folder / RUN))


def _description(path: Path) -> dict[str, Any]:
    """Read the description of a run. Raises TrainingError if it is damaged."""
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TrainingError(f"{path}: cannot be read ({error}); copy it from the run again") from error
    if not isinstance(description, dict):
        raise TrainingError(f"{path}: no description of a run; copy it from the run again")
    return description


def _complete_sets(folder: Path) -> dict[int, list[Path]]:
    """Return the files of each complete set, by its step."""
    sets: dict[tuple[int, int], list[Path]] = {}
    for path in folder.glob("*.safetensors") if (folder / RUN).is_file() else ():
        if found := NAME.fullmatch(path.name):
            step, _, count = map(int, found.groups())
            sets.setdefault((step, count), []).append(path)
    return {step: paths for (step, count), paths in sets.items() if len(paths) == count}


def _parts(weights: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Split the weights into dictionaries whose files have at most 15 MB."""
    parts: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, value in weights.items():
        bytes_of_value = value.numel() * value.element_size()
        if size + bytes_of_value > LARGEST_FILE - LARGEST_HEADER and parts[-1]:
            parts.append({})
            size = 0
        parts[-1][name] = value.detach().to("cpu", memory_format=torch.contiguous_format).contiguous()
        size += bytes_of_value
    return parts
