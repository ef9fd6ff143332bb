"""Checkpoints of a training run: written whole, and checked before they are used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdcodec.errors import TrainingError
from sdcodec.files import write_whole

ELSEWHERE = ("config", "optimisers", "stage")


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint whole or not at all."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # a file of Python's: of its own, torch.save does not say why they fail
            torch.save(state, file)

    write_whole(path, write)


def read(path: Path, device: torch.device | str) -> dict[str, Any]:
    """Read a checkpoint's parts by their names; its content is not yet checked.

    Nothing in it is executed (`weights_only`). Raises TrainingError if it cannot be read.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except OSError as error:
        raise TrainingError(
            f"{path}: cannot be read ({error.strerror or error}); copy it from the run again"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # over damaged data PyTorch raises errors of many classes
        raise damaged(path, "PyTorch cannot read it") from error
    if not isinstance(state, dict):
        raise damaged(path, "it has no named parts")
    return state


def check_parts(path: Path, state: dict[str, Any], weights: dict[str, Tensor], limit: dict[str, Tensor]) -> None:
    """Raise TrainingError unless parts, weights and numbers are those of a run.

    weights, limit: the run's own. The parts in ELSEWHERE are checked by others.
    """
    numbers = {"step": 0, "returns": 0, "seconds": 0.0}
    wanted = dict.fromkeys(ELSEWHERE) | {"model": weights, "average": weights, "limit": limit} | numbers
    found = {name: None if name in ELSEWHERE else value for name, value in state.items()}
    check_like(path, "its content", found, wanted)
    if any(state[name] < 0 for name in numbers):
        raise damaged(path, "a number below 0")


def check_like(path: Path, part: str, stored: Any, wanted: Any) -> None:
    """Raise TrainingError unless a part has the structure of a run's own.

    These have to agree: names, lengths of lists, shapes and types of tensors, kinds of numbers; numbers are finite.
    """
    if isinstance(wanted, Tensor):
        fits = isinstance(stored, Tensor) and stored.layout == wanted.layout
        if not fits or (stored.shape, stored.dtype) != (wanted.shape, wanted.dtype):
            raise damaged(path, f"{part} is no {wanted.dtype} tensor of shape {list(wanted.shape)}")
    elif isinstance(wanted, Mapping):
        if not isinstance(stored, Mapping) or set(stored) != set(wanted):
            raise damaged(path, f"{part} has other names")
        for name, value in wanted.items():
            check_like(path, f"{part}.{name}", stored[name], value)
    elif isinstance(wanted, list):
        if not isinstance(stored, list) or len(stored) != len(wanted):
            raise damaged(path, f"{part} has another length")
        for number, value in enumerate(wanted):
            check_like(path, f"{part}.{number}", stored[number], value)
    elif type(stored) is not type(wanted) or (isinstance(stored, float) and not math.isfinite(stored)):
        raise damaged(path, f"{part} is no {type(wanted).__name__}")


def same(stored: Any, wanted: Any) -> bool:
    """Return whether dictionaries, lists and plain values are equal.

    A tensor never is.
    """
    if isinstance(wanted, dict):
        equal_names = isinstance(stored, dict) and set(stored) == set(wanted)
        return equal_names and all(same(stored[name], value) for name, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(stored, list) and len(stored) == len(wanted) and all(map(same, stored, wanted))
    return type(stored) is type(wanted) and bool(stored == wanted)


def check_same_run(path: Path, stored: Any, config: dict[str, Any]) -> None:
    """Raise TrainingError if a checkpoint's run trains other tensors."""
    if not isinstance(stored, dict) or not isinstance(stored.get("adversarial"), int | float):
        raise damaged(path, "it has no settings")
    for name in ("stage", "train_only", "optimiser", "autoencoder", "prior"):
        if not same(stored.get(name), config[name]):
            raise TrainingError(
                f"{path}: holds a run with another {name}, not to be resumed with this one; give the settings of "
                "that run, or another output"
            )
    if bool(stored["adversarial"]) != bool(config["adversarial"]):
        raise TrainingError(
            f"{path}: adversarial is {stored['adversarial']:g} in this run and {config['adversarial']:g} now; a run "
            "keeps or lacks its discriminator; give the former, or another output"
        )


def load_weights(path: Path) -> dict[str, Tensor]:
    """Return the averaged weights of a checkpoint. Raises TrainingError."""
    state = read(path, "cpu")
    weights = state.get("average", state.get("model"))
    if not isinstance(weights, dict) or not all(
        isinstance(name, str)
        and isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.dtype.is_floating_point
        for name, value in weights.items()
    ):
        raise damaged(path, "it has no weights")
    return weights


def damaged(path: Path, problem: str) -> TrainingError:
    """Return the error for a checkpoint that `save` did not write."""
    return TrainingError(f"{path}: damaged, or no checkpoint of this run ({problem}); copy it from the run again")
