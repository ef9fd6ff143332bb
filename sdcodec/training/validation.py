"""Evaluate a model in training on crops of photographs that it is not trained on."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdcodec.training.compiling import uncompiled
from sdcodec.training.model import TrainingModel
from sdcodec.training.objective import RateDistortion

VALIDATION_QUALITIES = (10.0, 30.0, 45.0, 60.0, 85.0)
VALIDATION_SIZE = 256
VALIDATION_BATCH = 4


@torch.no_grad()
def validate(
    model: TrainingModel,
    objective: RateDistortion,
    images: NDArray[np.uint8],
    device: torch.device,
    realism: float = 0.0,
) -> dict[str, float]:
    """Return loss and means over the crops at each of a few qualities.

    `images` are uint8 `[N, H, W, 3]`; symbols are rounded as in a file. `psnr` is the mean over images, in dB.
    """
    result: dict[str, float] = {}
    total = 0.0
    with uncompiled():
        for level in VALIDATION_QUALITIES:
            rows: list[dict[str, float]] = []
            for start in range(0, len(images), VALIDATION_BATCH):
                part = torch.from_numpy(images[start : start + VALIDATION_BATCH])
                batch = part.to(device).permute(0, 3, 1, 2).float() / 255
                loss, parts = objective(model, batch, torch.full((len(batch),), level, device=device), realism)
                rows += [_floats(parts | {"loss": loss})] * len(batch)
            mean = {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
            total += mean.pop("loss") / len(VALIDATION_QUALITIES)
            result |= {f"q{level:g}_{key}": value for key, value in mean.items()}
    return {"loss": total} | result


def _floats(values: dict[str, Tensor]) -> dict[str, float]:
    return {key: float(value) for key, value in values.items()}
