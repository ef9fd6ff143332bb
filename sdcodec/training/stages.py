"""Stages of training: what each trains, on which inputs, and by which loss."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sdcodec.training import losses
from sdcodec.training.checkpoint import check_like
from sdcodec.training.config import PARTS, TrainingConfig
from sdcodec.training.model import TrainingModel, beta_of
from sdcodec.training.objective import ERROR_UNIT, RateDistortion
from sdcodec.training.validation import validate

REDUCED = (8, 4)  # divisors of the sides of reduced images


class CodecStage:
    """The whole model, or its decoder, by rate and distortion."""

    realism = 0.0  # of the decoder that is trained
    compiles = True  # whether gradients of the objective reach what is trained, so that compiled parts can be checked

    def __init__(self, config: TrainingConfig, model: TrainingModel, device: torch.device) -> None:
        """Load the distances. Raises TrainingError as `RateDistortion`."""
        self.config, self.model, self.device = config, model, device
        self.objective = RateDistortion(config, device)
        self.rate = config.learning_rate

    def trains(self, name: str) -> bool:
        """Return whether a parameter is trained."""
        return not self.config.train_only or name.startswith(PARTS[self.config.train_only])

    def inputs(self, batch: int) -> Tensor:
        """Draw what a step is told besides its crops, on the CPU: `[n, batch]`.

        Here qualities, spread evenly over the range, in random order.
        """
        lowest, highest = self.config.qualities
        return (lowest + (highest - lowest) * (torch.randperm(batch) + torch.rand(batch)) / batch)[None]

    def begin(self, progress: float, rate_factor: float) -> Hashable:
        """Prepare a step; return the key under which it may be recorded.

        progress: share of the run that has passed. rate_factor: of the learning rates.
        """
        quantise = self.config.quantise_from < 1 and progress >= self.config.quantise_from
        self.model.prior.set_quantise(quantise)
        return quantise

    def backward(self, images: Tensor, inputs: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Compute the loss and its gradients.

        Returns means of its parts, with `loss`, and whether all else that this step trains may count, bool.
        """
        loss, parts = self.objective(self.model, images, inputs[0])
        loss.backward()
        return parts | {"loss": loss.detach()}, torch.ones((), dtype=torch.bool, device=self.device)

    def finish(self, counts: Tensor) -> None:
        """Train what the stage has beside the model, if the step counts."""

    def validate(self, images: NDArray[np.uint8]) -> dict[str, float]:
        """Return the loss and means over crops, uint8 `[N, H, W, 3]`."""
        return validate(self.model.eval(), self.objective, images, self.device)

    def state(self) -> dict[str, Any]:
        """Return the stage's own state, for a checkpoint."""
        return {}

    def check(self, path: Path, state: Any) -> None:
        """Raise TrainingError unless a state of the checkpoint `path` fits this stage."""
        check_like(path, "the state of the stage", state, self.state())

    def restore(self, state: dict[str, Any]) -> None:
        """Restore the checked state of a checkpoint."""


class PreviewStage(CodecStage):
    """The decoder's heads for reduced images, with all else frozen."""

    compiles = False

    def trains(self, name: str) -> bool:
        """See CodecStage."""
        return name.startswith("decoder.head_")

    def backward(self, images: Tensor, inputs: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """See CodecStage."""
        [quality] = inputs
        errors = self._errors(images, quality)
        distortion = torch.stack(list(errors.values())).sum(0) / ERROR_UNIT
        loss = (beta_of(quality) * distortion * self.objective.balance(quality)).mean()
        loss.backward()
        means = {name: value.detach().mean() for name, value in errors.items()}
        return means | {"loss": loss.detach()}, torch.ones((), dtype=torch.bool, device=self.device)

    def _errors(self, images: Tensor, quality: Tensor) -> dict[str, Tensor]:
        """Return squared errors of reduced images, `[B]`, against originals' means."""
        model = self.model
        with torch.no_grad(), self.objective.low_precision():
            latents = model.unscaled(model.coded(images, quality).decoded, quality)
            bias = model.decoder_bias(quality)
        found = {}
        for scale in REDUCED:
            with self.objective.low_precision():
                reduced = model.decoder.reduced(latents, bias, scale).float()
            found[f"mse_{scale}"] = losses.squared(255 * (reduced - F.avg_pool2d(images, scale)))
        return found

    @torch.no_grad()
    def validate(self, images: NDArray[np.uint8]) -> dict[str, float]:
        """Return the errors, and as `whole_...` those of whole images scaled down."""
        self.model.eval()
        sums: dict[str, list[float]] = {}
        for number, image in enumerate(images):
            batch = torch.from_numpy(image)[None].to(self.device).permute(0, 3, 1, 2).float() / 255
            quality = torch.full((1,), 100.0 * (number + 0.5) / len(images), device=self.device)
            found = self._errors(batch, quality)
            whole = self.model(batch, quality).images
            for scale in REDUCED:
                error = 255 * (F.avg_pool2d(whole, scale) - F.avg_pool2d(batch, scale))
                found[f"whole_{scale}"] = losses.squared(error)
            for name, value in found.items():
                sums.setdefault(name, []).append(float(value))
        means = {name: sum(values) / len(values) for name, values in sums.items()}
        return {"loss": sum(means[f"mse_{scale}"] for scale in REDUCED)} | means
