"""Training loop: steps, validation, checkpoints and a clean stop."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdcodec.bundles.store import Bundle
from sdcodec.errors import TrainingError
from sdcodec.training.averages import Averages, save_averages
from sdcodec.training.checkpoint import check_parts, check_same_run, read, save
from sdcodec.training.compiling import parts_of, repeatable_loss, use_compiled
from sdcodec.training.config import TrainingConfig
from sdcodec.training.finishing import write_model
from sdcodec.training.guard import SKIPPED_STEPS, NormLimit, Watch
from sdcodec.training.model import TrainingModel
from sdcodec.training.optim import Optimisers
from sdcodec.training.photographs import Photographs
from sdcodec.training.realism import RealismStage, choose_realism
from sdcodec.training.recording import RecordedSteps
from sdcodec.training.schedule import Clock, Schedule
from sdcodec.training.session import Log, Means, stop_on_signals
from sdcodec.training.stages import CodecStage, PreviewStage

CHECKPOINT = "last.pt"
CHECK_BATCH = 2 << 40  # number of a step that no training reaches
LOG_STEPS, LOG_SECONDS = 50, 30.0  # between two lines of the log, at most
CHECKPOINT_SECONDS = 120.0
MOST_RETURNS = 2  # to a checkpoint, each with half the learning rate
KNOTS_RATE = 2.0  # of what depends on quality, relative to the others' learning rate
STAGES = {"codec": CodecStage, "realism": RealismStage, "previews": PreviewStage}


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
        """Build the run.

        validation: crops, uint8 `[N, H, W, 3]`.
        source: the bundle that the run starts from; its encoder and priors stay if only the
            decoder is trained.
        """
        self.config, self.model = config, model
        self.photographs, self.validation = photographs, validation
        self.device, self.source = device, source
        self.output = config.output_folder
        self.checkpoint = self.output / CHECKPOINT
        self.log = Log(self.output / "log.csv")
        self.stage: CodecStage = STAGES[config.stage](config, model, device)
        self.trained = [p for name, p in model.named_parameters() if self.stage.trains(name)]
        for parameter in set(model.parameters()) - set(self.trained):
            parameter.requires_grad_(False)
        self.optimisers = self._optimisers()
        self.recorded = RecordedSteps(self._update, device)
        self.average = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self.schedule = Schedule(config.num_steps, 60 * config.minutes)
        self.clock, self.means = Clock(), Means()
        self.limit, self.watch = NormLimit(device), Watch()
        self.step, self.returns = 0, 0
        self.validation_loss = math.nan
        self._logged_at = self._saved_at = 0.0

    def _optimisers(self) -> Optimisers:
        config = self.config
        names = {id(p): name for name, p in self.model.named_parameters()}
        matrices = [p for p in self.trained if p.ndim == 4 and p[0].numel() >= 32 and "head" not in names[id(p)]]
        if config.optimiser == "adamw":
            matrices = []
        rest = [p for p in self.trained if all(p is not m for m in matrices)]
        parts: dict[float, list[Tensor]] = {1.0: [], KNOTS_RATE: []}
        for parameter in rest:
            parts[_relative_rate(names[id(parameter)])].append(parameter)
        groups: list[dict[str, Any]] = [{"params": own, "lr": rate * self.stage.rate} for rate, own in parts.items()]
        return Optimisers(matrices, groups, self.stage.rate, config.weight_decay)

    def run(self) -> Path:
        """Train to the end of the schedule or to a signal.

        The checkpoint on disk is complete at every moment. Raises TrainingError if the run diverges a third time.
        """
        self.output.mkdir(parents=True, exist_ok=True)
        # Shapes stay the same; four candidates for each convolution bound the time of the first step.
        torch.backends.cudnn.benchmark, torch.backends.cudnn.benchmark_limit = True, 4
        self._compile()
        if not self.checkpoint.exists():
            self._save()
        with stop_on_signals() as stopped:
            self.clock.start()
            self._logged_at, self._saved_at = self.clock.seconds, time.monotonic()
            healthy = False
            while not healthy:
                while self.progress < 1 and not stopped:
                    self._step()
                healthy = self._log()
            self._save()
        if self.progress == 1:
            self.validate()
            self.export()
        return self.output

    def _step(self) -> None:
        """Take a step, and log, validate and save if it is time."""
        self.means.add(self._train_step())
        self.step += 1
        self.clock.tick(counts=not self.recorded.warming)
        late = self.clock.seconds - self._logged_at > LOG_SECONDS and self.means.count >= SKIPPED_STEPS
        if self.step % LOG_STEPS == 0 or late:
            healthy = self._log()
            if healthy and time.monotonic() - self._saved_at > CHECKPOINT_SECONDS:
                self._save()
        # On a CPU a validation takes minutes, which a run by the clock keeps for training.
        by_steps = self.config.num_steps > 0
        if by_steps and self.step % self.config.validate_every == 0 and self.progress < 1:
            self.validate()
            self.clock.tick(counts=False)

    def _log(self) -> bool:
        """Log the means of the last steps; return False after a return to a checkpoint."""
        count = self.means.count
        if not count:
            return True
        means = self.means.take()
        elapsed = max(1e-9, self.clock.seconds - self._logged_at)
        self._logged_at = self.clock.seconds
        left = self.schedule.left(self.step, self.clock.seconds, elapsed / count)
        note = f" | {count * self.config.batch / elapsed:.4g} crops/s, {left / 60:.1f} minutes left"
        self.log.write("train", self.step, self.clock.seconds, means, note)
        complaint = self.watch.complaint(means, count)
        if complaint:
            self._go_back(complaint)
        return not complaint

    def _go_back(self, complaint: str) -> None:
        """Return to the last checkpoint, with half the learning rate."""
        if self.returns == MOST_RETURNS:
            raise TrainingError(
                f"{self.output}: the run has diverged for the third time at step {self.step} ({complaint}); "
                "begin again with a lower learning_rate"
            )
        returns, step, seconds = self.returns + 1, self.step, self.clock.seconds
        self.restore()
        self.returns, self.clock.seconds = returns, seconds  # the time is spent
        self._save()
        print(f"diverged at step {step} ({complaint}): back to step {self.step}, half the learning rate", flush=True)

    @property
    def progress(self) -> float:
        """Share of the run, 0..1, that has passed."""
        return self.schedule.progress(self.step, self.clock.seconds)

    def _compile(self) -> None:
        """Compile parts of a step, if wanted and if the gradients stay as they are."""
        config = self.config
        wanted = config.compile == "on" or (config.compile == "auto" and self.device.type == "cuda")
        if not wanted or not self.stage.compiles:
            return
        images = self.photographs.crops(config.seed, CHECK_BATCH, config.batch, config.crop_size).float() / 255
        quality = self.stage.inputs(config.batch)[0].to(self.device)
        objective = self.stage.objective
        loss = repeatable_loss(self.model, objective, images, quality, config.seed, self.stage.realism)
        self.model.train()
        self.stage.begin(self.progress, 1.0)
        parts = parts_of(self.model, objective)
        use_compiled(parts, self.trained, loss, lambda text: print(text, flush=True))

    def export(self) -> Bundle:
        """Write the averaged weights as a bundle, `bundle/` in the folder of the run."""
        realism = None
        if isinstance(self.stage, RealismStage):
            self.model.load_state_dict(self.average)
            realism = choose_realism(self.stage, self.validation)
        return write_model(self.config, self._averages(), self.photographs, self.source, realism)

    def _averages(self) -> Averages:
        loss = None if math.isnan(self.validation_loss) else self.validation_loss
        description = {"config": asdict(self.config), "seconds": self.clock.seconds, "validation_loss": loss}
        return Averages(self.average, self.step, description)

    def _train_step(self) -> dict[str, Tensor]:
        """Run one step and return the means over its batch.

        Nothing here waits for a GPU, which would wait for the next step in turn.
        """
        config = self.config
        crops = self.photographs.crops(config.seed, self.step, config.batch, config.crop_size)
        torch.manual_seed(config.seed * 1_000_003 + self.step)
        self.model.train()
        factor = self.schedule.rate_factor(self.step, self.clock.seconds, config.warmup, config.decay)
        factor *= 0.5**self.returns
        self.optimisers.set_rate(factor)
        key = self.stage.begin(self.progress, factor)
        parts = self.recorded(crops, self.stage.inputs(config.batch), key)
        keep = min(config.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            state = self.model.state_dict()
            torch._foreach_lerp_(list(self.average.values()), [state[name] for name in self.average], 1 - keep)
        return parts

    def _update(self, crops: Tensor, inputs: Tensor) -> dict[str, Tensor]:
        """Compute loss, gradients and new weights on the device."""
        self.optimisers.zero_grad()
        parts, sound = self.stage.backward(crops.float() / 255, inputs)
        norm = torch.nn.utils.clip_grad_norm_(self.trained, self.config.gradient_clip)
        counts = self.limit(norm) & sound
        wrong = ~counts
        for parameter in self.trained:
            if parameter.grad is not None:
                parameter.grad.masked_fill_(wrong, 0.0)
        self.optimisers.step(counts)
        self.stage.finish(counts)
        found = parts | {"gradient": norm}
        return {name: value.masked_fill(wrong, 0.0) for name, value in found.items()} | {"skipped": wrong.float()}

    def validate(self) -> None:
        """Log the means of `sdcodec.training.validation` for the averaged weights."""
        if not len(self.validation):
            return
        kept = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.average)
        self.model.prior.set_quantise(self.config.quantise_from < 1)
        result = self.stage.validate(self.validation)
        self.model.load_state_dict(kept)
        self.validation_loss = result["loss"]
        self.log.write("validation", self.step, self.clock.seconds, result)

    def _save(self) -> None:
        """Write the checkpoint, and the averaged weights in small files."""
        state: dict[str, Any] = {
            "model": self.model.state_dict(),
            "average": self.average,
            "optimisers": self.optimisers.state(),
            "limit": self.limit.state(),
            "stage": self.stage.state(),
            "step": self.step,
            "returns": self.returns,
            "seconds": self.clock.seconds,
            "config": asdict(self.config),
        }
        save(self.checkpoint, state)
        save_averages(self.output / "averages", self._averages())
        self._saved_at = time.monotonic()

    def restore(self) -> None:
        """Restore the last checkpoint.

        Raises TrainingError if it is damaged, or that of another kind of run; the run is as it was then.
        """
        self.go_on_from(read(self.checkpoint, self.device))

    def go_on_from(self, state: dict[str, Any]) -> None:
        """Take the state that was read from this run's checkpoint.

        Raises TrainingError as `restore`.
        """
        check_same_run(self.checkpoint, state.get("config"), asdict(self.config))
        check_parts(self.checkpoint, state, self.model.state_dict(), self.limit.state())
        self.optimisers.check(self.checkpoint, state["optimisers"])
        self.stage.check(self.checkpoint, state["stage"])
        self.model.load_state_dict(state["model"])
        self.average = {name: value.clone() for name, value in state["average"].items()}
        self.optimisers.restore(state["optimisers"])
        self.limit.restore(state["limit"])
        self.stage.restore(state["stage"])
        self.step, self.returns, self.clock.seconds = state["step"], state["returns"], state["seconds"]
        self.recorded.forget()
        self.watch.forget()
        self.means.forget()


def _relative_rate(name: str) -> float:
    """Return a parameter's learning rate relative to the others'."""
    return KNOTS_RATE if name.endswith(".values") else 1.0
