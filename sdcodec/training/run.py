"""`sdcodec train`: from a configuration file to a finished run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdcodec import hardware
from sdcodec.bundles.store import find
from sdcodec.errors import OptionError, TrainingError
from sdcodec.training.config import TrainingConfig, load_config
from sdcodec.training.data import find_images, load_all
from sdcodec.training.model import TrainingModel
from sdcodec.training.restore import restore
from sdcodec.training.session import load_weights
from sdcodec.training.trainer import VALIDATION_SIZE, Photographs, Trainer


def train(config_path: Path, *, resume: bool = False, overrides: dict[str, str] | None = None) -> Path:
    """Run a configuration to its last step or a signal; return the folder of the run.

    SIGINT and SIGTERM stop it cleanly. Raises TrainingError for a faulty configuration, missing data, or a run that
    exists and is not to be resumed.
    """
    trainer = prepare(load_config(config_path, overrides), resume=resume)
    photographs = trainer.photographs
    print(f"{len(photographs.training)} images for training, {len(photographs.validation)} for validation", flush=True)
    return trainer.run()


def prepare(config: TrainingConfig, *, resume: bool = False) -> Trainer:
    """Load the photographs and the weights that a run starts from.

    Raises TrainingError as `train`.
    """
    output = Path(config.output)
    _check_output(output, resume)
    if not config.data:
        raise TrainingError("data is missing; name folders of photographs, as in --set 'data=[\"FOLDER\"]'")
    device = _device(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    source, weights = None, None
    if config.start_from.endswith(".pt"):
        weights = load_weights(Path(config.start_from))
    elif config.start_from:
        source = find(config.start_from)
        restored = restore(source)
        config = replace(config, autoencoder=restored.autoencoder, prior=restored.prior)
        weights = restored.weights
    model = _model(config, weights).to(device, memory_format=torch.channels_last)
    trainer = Trainer(config, model, _photographs(config), device, source)
    if resume:
        trainer.restore()
    return trainer


def _check_output(output: Path, resume: bool) -> None:
    exists = (output / "last.pt").exists()
    if exists and not resume:
        raise TrainingError(f"{output}: holds a run already; give --resume to continue it, or another output")
    if resume and not exists:
        raise TrainingError(f"{output}: no run to resume; leave --resume out, or correct the output")


def _device(name: str) -> torch.device:
    if name == "auto" and not torch.cuda.is_available():
        name = "cpu"  # training on MPS was never tested
    try:
        return hardware.device(name)
    except OptionError as error:
        raise TrainingError(str(error)) from error


def _model(config: TrainingConfig, weights: dict[str, Tensor] | None) -> TrainingModel:
    """Build the model, with the `weights` of an earlier run if given."""
    model = TrainingModel(config.autoencoder, config.prior)
    if weights is not None:
        shapes = model.state_dict()
        differing = [name for name, value in weights.items() if name not in shapes or value.shape != shapes[name].shape]
        if wrong := [*differing, *(name for name in shapes if name not in weights)]:
            raise TrainingError(
                f"{config.start_from}: weights of another model ({', '.join(wrong[:3])}); "
                "give [autoencoder] and [prior] as its run had them"
            )
        model.load_state_dict(weights)
    return model


def _photographs(config: TrainingConfig) -> Photographs:
    split = find_images([Path(folder) for folder in config.data])
    largest = max(stage.size for stage in config.crops)
    validation = load_all(split.validation, VALIDATION_SIZE)
    return Photographs(load_all(split.training, largest), _centre_crops(validation, config.validation_images))


def _centre_crops(images: list[NDArray[np.uint8]], count: int) -> NDArray[np.uint8]:
    chosen = [images[i * len(images) // count] for i in range(min(count, len(images)))]
    tops = [(pixels.shape[0] - VALIDATION_SIZE) // 2 for pixels in chosen]
    lefts = [(pixels.shape[1] - VALIDATION_SIZE) // 2 for pixels in chosen]
    crops = [p[t : t + VALIDATION_SIZE, x : x + VALIDATION_SIZE] for p, t, x in zip(chosen, tops, lefts, strict=True)]
    return np.stack(crops) if crops else np.zeros((0, VALIDATION_SIZE, VALIDATION_SIZE, 3), np.uint8)
