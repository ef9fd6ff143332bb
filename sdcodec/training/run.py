"""`sdcodec train`: the loop, its log, its checkpoints, and its clean stop."""

from __future__ import annotations

import csv
import math
import os
import signal
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdcodec import hardware
from sdcodec.bundles.store import Bundle, find
from sdcodec.errors import OptionError, TrainingError
from sdcodec.training.config import PARTS, CropStage, TrainingConfig, load_config
from sdcodec.training.data import crop_batch, find_images, load_all
from sdcodec.training.export import export, export_decoder
from sdcodec.training.model import TrainingModel
from sdcodec.training.objective import RateDistortion
from sdcodec.training.optim import Optimisers, rate_factor
from sdcodec.training.recording import RecordedSteps
from sdcodec.training.restore import restore

VALIDATION_QUALITIES = (10.0, 30.0, 45.0, 60.0, 85.0)
VALIDATION_SIZE = 256
TABLE_CROPS = 64
BATCHES_AHEAD = 16  # that are being cropped while a step runs: a GPU takes less time for it than one core for its crops


def train(config_path: Path, *, resume: bool = False, overrides: dict[str, str] | None = None) -> Path:
    """Runs a configuration to its last step, or until SIGINT or SIGTERM; returns the folder of the run.

    Raises TrainingError for a faulty configuration, missing data, or a run that exists and is not to be resumed.
    """
    return Trainer(load_config(config_path, overrides), resume).run()


class Trainer:
    """One run: model, averaged weights, optimisers and data, saved together so that it resumes exactly."""

    def __init__(self, config: TrainingConfig, resume: bool) -> None:
        self.config = config
        if not config.data:
            raise TrainingError("data is missing; name folders of photographs, as in --set 'data=[\"FOLDER\"]'")
        self.output = Path(config.output)
        self.checkpoint = self.output / "last.pt"
        if self.checkpoint.exists() and not resume:
            raise TrainingError(
                f"{self.output}: holds a run already; give --resume to go on with it, or another output"
            )
        if resume and not self.checkpoint.exists():
            raise TrainingError(f"{self.output}: no run there to go on with; leave --resume out, or correct the output")
        self.device = _device(config.device)
        if config.threads:
            torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self.source = _source(config.start_from)
        if self.source is not None:
            restored = restore(self.source)
            self.config = config = replace(config, autoencoder=restored.autoencoder, prior=restored.prior)
            weights: dict[str, Tensor] | None = restored.weights
        else:
            weights = load_weights(Path(config.start_from)) if config.start_from else None
        self.model = _model(config, weights).to(self.device, memory_format=torch.channels_last)
        self.objective = RateDistortion(config, self.device)
        self.trained = [p for name, p in self.model.named_parameters() if _is_trained(name, config.train_only)]
        for parameter in set(self.model.parameters()) - set(self.trained):
            parameter.requires_grad_(False)
        self.optimisers = self._optimisers()
        self.recorded = RecordedSteps(self._update, self.device)
        self.step = 0
        self.best = math.inf
        self.seconds = 0.0
        split = find_images([Path(folder) for folder in config.data])
        largest = max(stage.size for stage in config.crops)
        self.images = load_all(split.training, largest)
        self.validation = _centre_crops(load_all(split.validation, VALIDATION_SIZE), config.validation_images)
        self.average = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        if resume:
            self._restore()
        print(f"{len(self.images)} images for training, {len(self.validation)} for validation", flush=True)

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
        """Trains to the last step or to a signal; the checkpoint on disk is complete at every moment."""
        config = self.config
        self.output.mkdir(parents=True, exist_ok=True)
        torch.backends.cudnn.benchmark = True  # shapes stay the same
        log = _Log(self.output / "log.csv")
        workers = max(1, (os.cpu_count() or 1) - 1) if self.device.type == "cuda" else 1
        with _stop_on_signals() as stopped, ThreadPoolExecutor(max_workers=workers) as loader:
            upcoming = deque(self._load(loader, self.step + ahead) for ahead in range(min(workers, BATCHES_AHEAD)))
            since, shown = time.monotonic(), self.step
            sums: dict[str, Tensor] = {}
            while self.step < config.steps and not stopped:
                images = upcoming.popleft().result()
                upcoming.append(self._load(loader, self.step + 1 + len(upcoming)))
                for key, value in self._train_step(images).items():
                    sums[key] = sums.get(key, 0.0) + value
                self.step += 1
                if self.step % 50 == 0:
                    means = {key: float(value) / (self.step - shown) for key, value in sums.items()}
                    elapsed = time.monotonic() - since
                    self.seconds += elapsed
                    log.write("train", self.step, self.seconds, means)
                    since, shown, sums = time.monotonic(), self.step, {}
                if self.step % config.validate_every == 0 or self.step == config.steps:
                    result = self.validate()
                    log.write("validation", self.step, self.seconds, result)
                    if result["loss"] < self.best:
                        self.best = result["loss"]
                        _save(
                            self.output / "best.pt",
                            {"model": self.average, "config": asdict(config), "step": self.step},
                        )
                    since = time.monotonic()
                if self.step % config.checkpoint_every == 0:
                    self._checkpoint()
            self._checkpoint()
            loader.shutdown(cancel_futures=True)
        if self.step >= config.steps:
            self.export()
        return self.output

    def export(self) -> Bundle:
        """Writes the averaged weights as a bundle, `bundle/` in the folder of the run, ready for `--model`."""
        config = self.config
        description = {"steps": self.step, "training_images": len(self.images), "validation_loss": self.best}
        weights = {name: value.cpu() for name, value in self.average.items()}
        if self.source is not None and config.train_only:
            return self._told(
                export_decoder(
                    weights, config.autoencoder, config.prior, self.source, self.output / "bundle", description
                )
            )
        crops = crop_batch(
            self.images, config.seed, config.steps, TABLE_CROPS, max(stage.size for stage in config.crops)
        )
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

    def _load(self, loader: ThreadPoolExecutor, step: int) -> Future[Tensor]:
        stage = _stage(self.config.crops, step)
        config = self.config
        return loader.submit(crop_batch, self.images, config.seed, step, stage.batch, stage.size, config.scales)

    def _train_step(self, crops: Tensor) -> dict[str, Tensor]:
        """One step, and the means over its batch. Nothing here waits for a GPU, which would wait for the next step then."""
        config = self.config
        torch.default_generator.manual_seed(config.seed * 1_000_003 + self.step)
        quantise = 0 <= config.quantise_from <= self.step
        self.model.train()
        self.model.prior.set_quantise(quantise)
        self.optimisers.set_rate(rate_factor(self.step + 1, config.steps - self.step, config.warmup, config.decay))
        # While LPIPS gains weight, no step is like another.
        parts = self.recorded(
            crops, self._qualities(crops.shape[0]), quantise if self.step >= config.lpips_ramp else None
        )
        keep = min(config.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            state = self.model.state_dict()
            torch._foreach_lerp_(list(self.average.values()), [state[name] for name in self.average], 1 - keep)
        return parts

    def _update(self, crops: Tensor, quality: Tensor) -> dict[str, Tensor]:
        """What of a step happens on the device: loss, gradients, new weights."""
        loss, parts = self.objective(self.model, crops.float() / 255, quality, self.step)
        self.optimisers.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.trained, self.config.gradient_clip)
        wrong = ~norm.isfinite()  # such a step counts nothing
        for parameter in self.trained:
            if parameter.grad is not None:
                parameter.grad.masked_fill_(wrong, 0.0)
        self.optimisers.step()
        return parts | {"gradient": norm, "loss": loss.detach()}

    def _qualities(self, batch: int) -> Tensor:
        """One quality per image, spread evenly over the range that is open at this step."""
        config = self.config
        span = max(1, config.spread_end - config.spread_start)
        opened = min(1.0, max(0.0, (self.step - config.spread_start) / span))
        lowest, highest = config.qualities
        low = config.focus_quality + (lowest - config.focus_quality) * opened
        high = config.focus_quality + (highest - config.focus_quality) * opened
        places = (torch.randperm(batch) + torch.rand(batch)) / batch
        return low + (high - low) * places

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Averaged weights, rounded symbols: means over the validation crops at each of a few qualities."""
        if not len(self.validation):
            return {"loss": math.nan}
        kept = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.average)
        self.model.eval()
        self.model.prior.set_quantise(0 <= self.config.quantise_from <= self.step)
        result: dict[str, float] = {}
        total = 0.0
        for level in VALIDATION_QUALITIES:
            rows = []
            for start in range(0, len(self.validation), 4):
                images = (
                    torch.from_numpy(self.validation[start : start + 4]).to(self.device).permute(0, 3, 1, 2).float()
                    / 255
                )
                at = torch.full((images.shape[0],), level, device=self.device)
                loss, parts = self.objective(self.model, images, at, self.step)
                rows.append({key: float(value) for key, value in (parts | {"loss": loss}).items()})
            mean = {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
            total += mean.pop("loss") / len(VALIDATION_QUALITIES)
            result |= {f"q{level:g}_{key}": value for key, value in mean.items()}
        self.model.load_state_dict(kept)
        return {"loss": total} | result

    def _checkpoint(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "average": self.average,
            "optimisers": self.optimisers.state(),
            "step": self.step,
            "best": self.best,
            "seconds": self.seconds,
            "config": asdict(self.config),
        }
        _save(self.checkpoint, state)

    def _restore(self) -> None:
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average = state["average"]
        self.optimisers.restore(state["optimisers"])
        self.step, self.best, self.seconds = state["step"], state["best"], state["seconds"]


def load_weights(path: Path) -> dict[str, Tensor]:
    """The averaged weights of a checkpoint (`last.pt` or `best.pt`)."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    weights: dict[str, Tensor] = state.get("average", state["model"])
    return weights


def _source(start_from: str) -> Bundle | None:
    """The bundle that a run begins with, by its name or folder; None for a checkpoint, or for nothing."""
    return None if not start_from or start_from.endswith(".pt") else find(start_from)


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


def _is_trained(name: str, only: str) -> bool:
    return not only or name.startswith(PARTS[only])


def _stage(stages: tuple[CropStage, ...], step: int) -> CropStage:
    return [stage for stage in stages if stage.start <= step][-1]


def _centre_crops(images: list[NDArray[np.uint8]], count: int) -> NDArray[np.uint8]:
    chosen = [images[i * len(images) // count] for i in range(min(count, len(images)))]
    tops = [(pixels.shape[0] - VALIDATION_SIZE) // 2 for pixels in chosen]
    lefts = [(pixels.shape[1] - VALIDATION_SIZE) // 2 for pixels in chosen]
    crops = [p[t : t + VALIDATION_SIZE, x : x + VALIDATION_SIZE] for p, t, x in zip(chosen, tops, lefts, strict=True)]
    return np.stack(crops) if crops else np.zeros((0, VALIDATION_SIZE, VALIDATION_SIZE, 3), np.uint8)


def _device(name: str) -> torch.device:
    if name == "auto" and not torch.cuda.is_available():
        name = "cpu"  # not MPS, which nobody has trained on
    try:
        return hardware.device(name)
    except OptionError as error:
        raise TrainingError(str(error)) from error


def _save(path: Path, state: dict[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


class _Log:
    """A CSV in long form: kind, step, seconds, name, value. Rows of later runs are added to those of earlier ones."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            path.write_text("kind,step,seconds,name,value\n", encoding="utf-8")

    def write(self, kind: str, step: int, seconds: float, values: dict[str, float]) -> None:
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(
                [kind, step, f"{seconds:.1f}", name, f"{value:.6g}"] for name, value in values.items()
            )
        if kind == "validation" or step % 200 == 0:
            print(f"{kind} {step} {seconds:.0f}s " + " ".join(f"{k} {v:.4g}" for k, v in values.items()), flush=True)


@contextmanager
def _stop_on_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM instead of dying of them; the list is non-empty once one came."""
    received: list[int] = []
    kept = {
        number: signal.signal(number, lambda n, _: received.append(n)) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield received
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
