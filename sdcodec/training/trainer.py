"""The training loop: steps, validation, checkpoints and a clean stop."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdcodec.bundles.store import Bundle
from sdcodec.training.compiling import use_compiled_blocks
from sdcodec.training.config import PARTS, TrainingConfig
from sdcodec.training.export import export, export_decoder
from sdcodec.training.model import TrainingModel
from sdcodec.training.objective import RateDistortion
from sdcodec.training.optim import Optimisers
from sdcodec.training.photographs import Photographs
from sdcodec.training.recording import RecordedSteps
from sdcodec.training.schedule import Clock, Schedule
from sdcodec.training.session import Log, save, stop_on_signals
from sdcodec.training.validation import validate

CHECK_BATCH, TABLE_BATCH, TABLE_CROPS = 2 << 40, 3 << 40, 64  # numbers of steps that no training reaches
LOG_STEPS, LOG_SECONDS = 50, 30.0  # between two lines of the log, at most


class Trainer:
    """A run: model, averaged weights, optimisers and data.

    Checkpoints hold all of its state, so that it resumes exactly.
    """

    def __init__(
        self,
        config: TrainingConfig,
        model: TrainingModel,
        photographs: Photographs,
        validation: NDArray[np.uint8],
        device: torch.device,
        source: Bundle | None = None,
    ) -> None:
        """Take `validation` crops, uint8 `[N, H, W, 3]`, and the bundle that the run starts from as `source`.

        The encoder and the priors of `source` stay with `train_only`.
        """
        self.config, self.model = config, model
        self.photographs, self.validation = photographs, validation
        self.device, self.source = device, source
        self.output = Path(config.output)
        self.checkpoint = self.output / "last.pt"
        self.objective = RateDistortion(config, device)
        self.trained = [p for name, p in model.named_parameters() if _is_trained(name, config.train_only)]
        for parameter in set(model.parameters()) - set(self.trained):
            parameter.requires_grad_(False)
        self.optimisers = self._optimisers()
        self.recorded = RecordedSteps(self._update, device)
        self.average = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self.step = 0
        self.best = math.inf
        self.schedule = Schedule(config.num_steps, 60 * config.minutes)
        self.clock = Clock()

    def _optimisers(self) -> Optimisers:
        config = self.config
        names = {id(p): name for name, p in self.model.named_parameters()}
        matrices = [p for p in self.trained if p.ndim == 4 and p[0].numel() >= 32 and "head" not in names[id(p)]]
        if config.optimiser == "adamw":
            matrices = []
        rest = [p for p in self.trained if all(p is not m for m in matrices)]
        knots = [p for p in rest if names[id(p)].endswith(".values")]
        rest = [p for p in rest if not names[id(p)].endswith(".values")]
        groups: list[dict[str, Any]] = [{"params": rest}, {"params": knots, "lr": 2 * config.learning_rate}]
        return Optimisers(matrices, groups, config.learning_rate, config.weight_decay)

    def run(self) -> Path:
        """Train to the last step or to a signal.

        The checkpoint on disk is complete at every moment.
        """
        config = self.config
        self.output.mkdir(parents=True, exist_ok=True)
        torch.backends.cudnn.benchmark = True  # shapes stay the same
        log = Log(self.output / "log.csv")
        self._choose_blocks()
        with stop_on_signals() as stopped:
            self.clock.start()
            logged, shown = self.clock.seconds, self.step
            sums: dict[str, Tensor] = {}
            while self.progress < 1 and not stopped:
                for key, value in self._train_step().items():
                    sums[key] = sums.get(key, 0.0) + value
                self.step += 1
                self.clock.tick(counts=not self.recorded.warming)
                if self.step % LOG_STEPS == 0 or self.clock.seconds - logged > LOG_SECONDS:
                    means = {key: float(value) / (self.step - shown) for key, value in sums.items()}
                    log.write("train", self.step, self.clock.seconds, means)
                    logged, shown, sums = self.clock.seconds, self.step, {}
                if self.step % config.validate_every == 0 or self.progress == 1:
                    result = self.validate()
                    log.write("validation", self.step, self.clock.seconds, result)
                    if result["loss"] < self.best:
                        self.best = result["loss"]
                        save(
                            self.output / "best.pt",
                            {"model": self.average, "config": asdict(config), "step": self.step},
                        )
                if self.step % config.checkpoint_every == 0:
                    self._checkpoint()
            self._checkpoint()
        if self.progress == 1:
            self.export()
        return self.output

    @property
    def progress(self) -> float:
        """Share of the run, 0..1, that has passed."""
        return self.schedule.progress(self.step, self.clock.seconds)

    def _choose_blocks(self) -> None:
        """Compile residual blocks on CUDA, if that leaves the gradients as they are."""
        config = self.config
        if self.device.type != "cuda" or not config.compile:
            return
        images = self.photographs.crops(config.seed, CHECK_BATCH, config.batch, config.crop_size).float() / 255
        quality = self._qualities(config.batch).to(self.device)

        def loss() -> Tensor:
            torch.manual_seed(config.seed)
            return self.objective(self.model, images, quality)[0]

        self.model.train()
        use_compiled_blocks(self.model, loss, lambda text: print(text, flush=True))

    def export(self) -> Bundle:
        """Write the averaged weights as a bundle, `bundle/` in the folder of the run."""
        config = self.config
        description = {
            "steps": self.step,
            "training_images": self.photographs.count,
            "validation_loss": self.best,
        }
        weights = {name: value.cpu() for name, value in self.average.items()}
        if self.source is not None and config.train_only:
            return self._told(
                export_decoder(
                    weights, config.autoencoder, config.prior, self.source, self.output / "bundle", description
                )
            )
        crops = self.photographs.crops(config.seed, TABLE_BATCH, TABLE_CROPS, config.crop_size).cpu()
        bundle = export(
            weights,
            config.autoencoder,
            config.prior,
            crops.permute(0, 2, 3, 1).contiguous().numpy(),
            self.output / "bundle",
            config.name,
            description,
        )
        return self._told(bundle)

    def _told(self, bundle: Bundle) -> Bundle:
        print(f"model written to {bundle.folder}, fingerprint {bundle.priors[0].fingerprint.hex()[:8]}", flush=True)
        return bundle

    def _train_step(self) -> dict[str, Tensor]:
        """Run one step and return the means over its batch.

        Nothing here waits for a GPU, which would wait for the next step in turn.
        """
        config = self.config
        crops = self.photographs.crops(config.seed, self.step, config.batch, config.crop_size)
        torch.manual_seed(config.seed * 1_000_003 + self.step)
        quantise = config.quantise_from < 1 and self.progress >= config.quantise_from
        self.model.train()
        self.model.prior.set_quantise(quantise)
        factor = self.schedule.rate_factor(self.step, self.clock.seconds, config.warmup, config.decay)
        self.optimisers.set_rate(factor)
        parts = self.recorded(crops, self._qualities(config.batch), quantise)
        keep = min(config.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            state = self.model.state_dict()
            torch._foreach_lerp_(list(self.average.values()), [state[name] for name in self.average], 1 - keep)
        return parts

    def _update(self, crops: Tensor, quality: Tensor) -> dict[str, Tensor]:
        """Compute loss, gradients and new weights on the device."""
        loss, parts = self.objective(self.model, crops.float() / 255, quality)
        self.optimisers.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.trained, self.config.gradient_clip)
        wrong = ~norm.isfinite()  # such a step has no effect
        for parameter in self.trained:
            if parameter.grad is not None:
                parameter.grad.masked_fill_(wrong, 0.0)
        self.optimisers.step()
        return parts | {"gradient": norm, "loss": loss.detach()}

    def _qualities(self, batch: int) -> Tensor:
        """Return one quality per image, spread evenly over the range, in random order."""
        lowest, highest = self.config.qualities
        return lowest + (highest - lowest) * (torch.randperm(batch) + torch.rand(batch)) / batch

    def validate(self) -> dict[str, float]:
        """Return the means of `sdcodec.training.validation` for the averaged weights."""
        kept = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.average)
        self.model.prior.set_quantise(self.config.quantise_from < 1)
        result = validate(self.model.eval(), self.objective, self.validation, self.device)
        self.model.load_state_dict(kept)
        return result

    def _checkpoint(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "average": self.average,
            "optimisers": self.optimisers.state(),
            "step": self.step,
            "best": self.best,
            "seconds": self.clock.seconds,
            "config": asdict(self.config),
        }
        save(self.checkpoint, state)

    def restore(self) -> None:
        """Restore the state of the checkpoint."""
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average = state["average"]
        self.optimisers.restore(state["optimisers"])
        self.step, self.best, self.clock.seconds = state["step"], state["best"], state["seconds"]


def _is_trained(name: str, only: str) -> bool:
    return not only or name.startswith(PARTS[only])
