"""Fitting a learned prior to the latents of an autoencoder that stays as it is: what `sdcodec models fit` does."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sdcodec import hardware
from sdcodec.autoencoders.protocol import Autoencoder
from sdcodec.bundles import loading
from sdcodec.bundles.store import Bundle
from sdcodec.bundles.writing import NewPrior, add_prior
from sdcodec.coding.tables import FrequencyTables
from sdcodec.constants import QUALITY_LEVELS, SCALE_MIN, SCALE_RATIO
from sdcodec.errors import TrainingError
from sdcodec.priors.config import PriorConfig
from sdcodec.priors.learned import LearnedPrior
from sdcodec.priors.passes import GROUPS, PASSES, PASSES_IN_PARTS, pass_masks
from sdcodec.priors.protocol import Prior
from sdcodec.priors.sources import CostEstimator
from sdcodec.training.data import find_images, load_pixels
from sdcodec.training.export import observed_tables, prior_tensors
from sdcodec.training.optim import Optimisers, rate_factor
from sdcodec.training.prior_network import (
    LARGEST_ACTIVATION,
    ContextPass,
    PriorNetwork,
)

CONTEXT_LIMIT = 1152  # inputs of a context layer: 5x5 up to 46 channels, 3x3 up to 128, 1x1 above
PARTS_KERNEL = 5  # what reaches the neighbours of a pass in parts, two latents away
CACHED_LATENTS = 64  # along a side, at most, of what is kept of a picture
SMALLEST_LATENTS = 8
VALIDATION_SHARE = 8  # one picture in so many is kept for validation
VALIDATION_PICTURES = 12
VALIDATION_QUALITIES = (10.0, 30.0, 50.0, 70.0, 90.0)
TABLE_CROPS = 64
CACHE_SHARE = 0.25  # of the time; latents are made once, before the training
FINAL_SHARE = 0.35  # of the training: with the rounding of the export, while the learning rate falls
WARMUP_SHARE = 0.03
AVERAGING = 0.995
WEIGHT_DECAY = 0.01  # of what is no matrix
SOLVER_QUALITIES = (40.0, 60.0, 80.0, 100.0)
SOLVER_CROPS = 64
SOLVER_BATCH = 1 << 24  # a step that no training reaches: other windows than it will see
SOLVER_RIDGE = 0.01  # of the variance of a channel

Say = Callable[[str], None]


@dataclass(frozen=True)
class FitConfig:
    """How long and how wide. A run with `steps` can be repeated; one with `minutes` ends in time."""

    minutes: float = 10.0
    steps: int = 0  # where it is not 0, it counts, and `minutes` does not
    pictures: int = 0  # at most so many; 0: all, or as many as a quarter of the time allows
    width: int = 64
    blocks: int = 1
    hyper_channels: int = 12
    batch: int = 4
    crop: int = 32  # latents along a side
    learning_rate: float = 3e-3
    seed: int = 1


@dataclass(frozen=True)
class Fitted:
    """The bundle with its new prior, and bits per latent on pictures that were not trained on, a mean over qualities.

    `bits_before`: with the prior that the bundle has encoded with until now.
    """

    bundle: Bundle
    steps: int
    pictures: int
    bits: float
    bits_before: float


def fit_prior(
    bundle: Bundle,
    folders: Sequence[Path],
    config: FitConfig | None = None,
    *,
    device: str = "auto",
    only_if_better: bool = True,
    say: Say = lambda _: None,
) -> Fitted:
    """Trains a learned prior for the bundle's latents and puts it first among the bundle's priors; earlier ones stay.

    `folders`: photographs, searched through. The quantiser (`gain`) is that of the bundle's present first prior. Nothing is
    written before the end: an interrupted run leaves the bundle as it was. `say` is told of the progress, a line at a time.

    Raises TrainingError where there are no pictures, too small ones, or, with `only_if_better`, where the fitted prior takes
    more bits than the present one; BundleError for a damaged bundle.
    """
    config = config or FitConfig()
    _check(config)
    started = time.monotonic()
    on = hardware.device(device)
    model = loading.load(bundle, bundle.priors[0], on, torch.float32)
    until = math.inf if config.steps else started + CACHE_SHARE * 60 * config.minutes
    training, validation = cached_latents(model.autoencoder, folders, config, on, until, say)
    until = math.inf if config.steps else started + 60 * config.minutes
    network, steps = train_prior(training, model.quantiser.gain.cpu(), config, on, until, say)
    tensors, tables = _exported(network, training, model.quantiser.gain.cpu(), config)
    fitted = LearnedPrior(network.config, tensors, tables, on)
    bits, before = (_bits(prior, validation, model.quantiser.gain) for prior in (fitted, model.prior))
    if only_if_better and bits >= before:
        raise TrainingError(
            f"the fitted prior takes {bits:.4f} bits a latent, the present one {before:.4f}: the model is left as it was; "
            "give it more minutes or more photographs"
        )
    written = add_prior(
        bundle,
        NewPrior(
            "learned",
            asdict(network.config),
            tensors,
            tables,
            model.quantiser.gain.cpu(),
            model.quantiser.inverse_gain.cpu(),
        ),
    )
    return Fitted(written, steps, len(training) + len(validation), bits, before)


def _check(config: FitConfig) -> None:
    if config.steps < 0 or config.pictures < 0 or not 0 < config.minutes < math.inf:
        raise TrainingError("minutes are positive, steps and pictures not negative")
    if config.width < 4 or config.width % 4 or config.blocks < 0 or config.hyper_channels < 1 or config.batch < 1:
        raise TrainingError("width is a positive multiple of 4, blocks at least 0, hyper-channels and batch at least 1")
    if config.crop < SMALLEST_LATENTS or config.crop % 4:
        raise TrainingError(f"crops are multiples of 4 latents, from {SMALLEST_LATENTS} up")


# Latents


@torch.no_grad()
def cached_latents(
    autoencoder: Autoencoder, folders: Sequence[Path], config: FitConfig, on: torch.device, until: float, say: Say
) -> tuple[list[Tensor], list[Tensor]]:
    """Latents `[C, h, w]` for training and for validation, float32, of the middles of pictures, half of them mirrored.

    Sides are multiples of 4 latents, at most 64. Pictures come in random order, and no more of them after the time `until`.
    """
    split = find_images(list(folders))
    paths = [*split.training, *split.validation]
    np.random.default_rng(config.seed).shuffle(paths)
    found: list[Tensor] = []
    for path in paths[: config.pictures or None]:
        if len(found) >= 2 and time.monotonic() > until:
            break
        try:
            pixels = load_pixels(path)
        except Exception as error:  # decoders raise much besides OSError
            say(f"{path}: left out: {error}")
            continue
        unit = 4 * autoencoder.factor
        height, width = (min(side // unit * 4, CACHED_LATENTS) for side in pixels.shape[:2])
        if min(height, width) < SMALLEST_LATENTS:
            continue
        extent = height * autoencoder.factor, width * autoencoder.factor
        top, left = ((whole - part) // 2 for whole, part in zip(pixels.shape[:2], extent, strict=True))
        crop = pixels[top : top + extent[0], left : left + extent[1]]
        if len(found) % 2:  # mirrored here: latents of a mirrored picture are not the mirrored latents
            crop = crop[:, ::-1]
        images = torch.from_numpy(crop.copy()).to(on).permute(2, 0, 1)[None].float() / 255
        found.append(autoencoder.encode(images)[0].float().cpu())
        if len(found) % 20 == 0:
            say(f"latents of {len(found)} pictures")
    if len(found) < 2:
        smallest = SMALLEST_LATENTS * autoencoder.factor
        raise TrainingError(
            f"fewer than two pictures with sides of {smallest} pixels or more; name a folder with photographs"
        )
    count = max(1, min(VALIDATION_PICTURES, len(found) // VALIDATION_SHARE))
    return found[count:], found[:count]


class _Crops:
    """Random windows of the cached latents, the same for the same seed and step."""

    def __init__(self, latents: list[Tensor], config: FitConfig) -> None:
        sides = sorted(min(own.shape[1:]) for own in latents)
        self.side = min(config.crop, sides[len(sides) // 2] // 4 * 4)
        self._latents = [own for own in latents if min(own.shape[1:]) >= self.side]
        self._seed = config.seed

    def batch(self, step: int, count: int) -> Tensor:
        """`[count, C, side, side]`."""
        random = np.random.default_rng((self._seed, step))
        crops = []
        for _ in range(count):
            own = self._latents[random.integers(len(self._latents))]
            top, left = (int(random.integers(size - self.side + 1)) for size in own.shape[1:])
            crops.append(own[:, top : top + self.side, left : left + self.side])
        return torch.stack(crops)


# Training


def prior_config(channels: int, config: FitConfig) -> PriorConfig:
    """Widths for so many channels: the context's kernel is the largest whose sums stay short."""
    kernel = next(k for k in (5, 3, 1) if k == 1 or channels * k * k <= CONTEXT_LIMIT)
    return PriorConfig(
        latent_channels=channels,
        hyper_channels=config.hyper_channels,
        width=config.width,
        middle=config.width // 2,
        blocks=config.blocks,
        context_kernel=kernel,
        passes=PASSES_IN_PARTS if kernel >= PARTS_KERNEL else PASSES,
        hyper_context=0,
        direct_kernel=kernel,
    )


def train_prior(
    latents: list[Tensor], gain: Tensor, config: FitConfig, on: torch.device, until: float, say: Say
) -> tuple[PriorNetwork, int]:
    """The averaged network, and how many steps it was trained: `config.steps`, or until the time `until`."""
    torch.manual_seed(config.seed)
    crops = _Crops(latents, config)
    network = _initial(latents, gain, config)
    solve_direct(network, latents, gain, config)
    network.latents_are_given = True
    network.to(on)
    average = {name: value.detach().clone() for name, value in network.state_dict().items()}
    optimisers = _optimisers(network, config)
    expected = expected_bits(latents, gain)
    begun = time.monotonic()
    step, shown, recent = 0, begun, 0.0
    while True:
        done = step / config.steps if config.steps else (time.monotonic() - begun) / max(until - begun, 1e-3)
        if done >= 1 and step > 0:
            break
        torch.manual_seed(config.seed * 1_000_003 + step)
        network.set_quantise(done >= 1 - FINAL_SHARE)
        optimisers.zero_grad()
        quality_index = _spread_qualities(config.batch)
        steps = (crops.batch(step, config.batch) * gain[quality_index][:, :, None, None]).to(on)
        bits = network(steps, quality_index.to(on) / 2).bits / steps[0].numel()
        loss = (bits / expected[quality_index].to(on)).mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        if torch.isfinite(norm):
            optimisers.set_rate(rate_factor(done + 0.002, 1 - done, WARMUP_SHARE, FINAL_SHARE))
            optimisers.step()
        step += 1
        keep = min(AVERAGING, step / (9 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.values()), [network.state_dict()[name] for name in average], 1 - keep)
        recent += 0.05 * (float(loss.detach()) - recent) if step > 1 else float(loss.detach())
        if time.monotonic() - shown > 10:
            shown = time.monotonic()
            say(f"step {step}, {min(done, 1):.0%}: {recent:.4f} of the bits of independent latents")
    network.load_state_dict(average)
    return network.cpu().eval(), step


def _initial(latents: list[Tensor], gain: Tensor, config: FitConfig) -> PriorNetwork:
    """A network that begins with each channel's own scale at each quality."""
    channels = gain.shape[1]
    network = PriorNetwork(prior_config(channels, config), float((gain[-1] / gain[0]).log().mean()))
    scale = (_deviations(latents) * gain).clamp(min=1e-6).log()  # [201, C]
    with torch.no_grad():
        count = network.context_gain.values.shape[0]
        at_knots = scale[torch.linspace(0, QUALITY_LEVELS - 1, count).round().long()]
        network.context_gain.values.copy_(-at_knots)
        network.mean_gain.values.copy_(at_knots)
        network.scale_base.values.copy_((at_knots - math.log(SCALE_MIN)) / SCALE_RATIO)
        # Hyper-latents begin so small that they cost little: contexts tell most of what they could.
        network.hyper_gain.values.sub_(math.log(4))
        network.hyper_scale.values.fill_((math.log(0.4) - math.log(SCALE_MIN)) / SCALE_RATIO)
    return network


@torch.no_grad()
def solve_direct(network: PriorNetwork, latents: list[Tensor], gain: Tensor, config: FitConfig) -> None:
    """Sets the linear path from context to means by least squares, and each pass's scales to what that leaves over.

    So training begins where linear prediction ends.

    For each pass and channel group: the latents, in their channels' deviations, from the quantised ones that are decoded before
    that pass, in a window around, at a few qualities.
    """
    kernel, channels = network.config.direct_kernel, gain.shape[1]
    crops = _Crops(latents, config)
    passes = network.config.passes
    masks = torch.from_numpy(pass_masks(channels, crops.side, crops.side, passes))
    batch = crops.batch(SOLVER_BATCH, SOLVER_CROPS)
    deviations = _deviations(latents).clamp(min=1e-6)[:, None, None]
    group = torch.arange(channels) * GROUPS // channels
    for k in range(1, passes):
        known = masks[:k].any(0)
        columns, truths = [], []
        for part, quality in zip(batch.chunk(len(SOLVER_QUALITIES)), SOLVER_QUALITIES, strict=False):
            own = gain[round(2 * quality)][:, None, None]
            rounded = ((part * own).round() / own / deviations * known).clamp(-LARGEST_ACTIVATION, LARGEST_ACTIVATION)
            columns.append(F.unfold(rounded, kernel, padding=kernel // 2))
            truths.append((part / deviations).flatten(2))
        for index in group.unique():
            members = group == index
            here = masks[k, members][0].flatten()
            x = torch.cat([own[:, :, here].transpose(0, 1).flatten(1) for own in columns], 1).double()
            y = torch.cat([own[:, members][:, :, here].transpose(0, 1).flatten(1) for own in truths], 1).double()
            seen = x.any(1)  # the others are decoded later
            gram = x[seen] @ x[seen].T
            gram.diagonal().add_(SOLVER_RIDGE * x.shape[1])
            solution = torch.zeros(len(y), len(x))
            solution[:, seen] = torch.linalg.solve(gram, x[seen] @ y.T).T.float()
            step = cast(ContextPass, network.passes[k])
            assert step.direct is not None and step.head.bias is not None
            step.direct.weight[members] = solution.view(-1, channels, kernel, kernel)
            left = (y.float() - solution @ x.float()).std(1).clamp(min=0.02)
            step.head.bias[channels:][members] = left.log() / SCALE_RATIO


def _deviations(latents: list[Tensor]) -> Tensor:
    return torch.cat([own.flatten(1) for own in latents], 1).std(1)


def expected_bits(latents: list[Tensor], gain: Tensor) -> Tensor:
    """Bits a latent of independent Gaussians at each half step, `[201]`, roughly: what rates are compared with.

    Without it, high qualities would rule the loss.
    """
    return 0.5 * torch.log2(1 + 4 * (_deviations(latents) * gain).square()).mean(1) + 0.01


def _spread_qualities(count: int) -> Tensor:
    """Half steps, one in each of `count` equal parts of the range."""
    places = (torch.arange(count) + torch.rand(count)) / count
    return (places * QUALITY_LEVELS).long().clamp(max=QUALITY_LEVELS - 1)


def _optimisers(network: PriorNetwork, config: FitConfig) -> Optimisers:
    named = dict(network.named_parameters())
    matrices = [p for name, p in named.items() if p.ndim == 4 and p[0].numel() >= 16 and "head" not in name]
    groups: dict[float, list[Tensor]] = {}
    for name, parameter in named.items():
        if all(parameter is not other for other in matrices):
            factor = next((f for part, f in _FASTER.items() if part in name), 1.0)
            groups.setdefault(factor, []).append(parameter)
    rest: list[dict[str, Any]] = [
        {"params": own, "lr": f * config.learning_rate, "weight_decay": WEIGHT_DECAY} for f, own in groups.items()
    ]
    return Optimisers(matrices, rest, config.learning_rate)


# Learning rates of what counts in table indices, of which there are 64, are higher than those of weights.
_FASTER = {"scale_base": 30.0, "hyper_scale": 30.0, "head.bias": 10.0, "gain": 2.0, "quality": 2.0}


# Export


def _exported(
    network: PriorNetwork, latents: list[Tensor], gain: Tensor, config: FitConfig
) -> tuple[dict[str, Tensor], FrequencyTables]:
    tensors = prior_tensors(network)
    return tensors, observed_tables(network.config, tensors, _table_batches(latents, gain, config))


def _table_batches(latents: list[Tensor], gain: Tensor, config: FitConfig) -> Iterator[tuple[Tensor, int]]:
    crops = _Crops(latents, config)
    for index in range(min(TABLE_CROPS // 4, len(latents))):
        batch = crops.batch(-1 - index & 0xFFFFFF, 4)  # windows that no step of the training takes
        for quality_index in range(index % 20, QUALITY_LEVELS, 20):
            yield batch * gain[quality_index][:, None, None], quality_index


@torch.no_grad()
def _bits(prior: Prior, latents: list[Tensor], gain: Tensor) -> float:
    """Bits a latent, side information included, a mean over pictures and qualities."""
    results = []
    for own in latents:
        for quality in VALIDATION_QUALITIES:
            quality_index = round(2 * quality)
            steps = own[None].to(gain.device) * gain[quality_index][:, None, None]
            counter = CostEstimator(steps, prior.hyper_latents(steps, quality_index), prior.tables)
            prior.walk((1, *own.shape[1:]), quality_index, counter)
            results.append(counter.bits / own.numel())
    return float(np.mean(results))
