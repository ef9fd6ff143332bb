"""Fitting of a learned prior to a fixed autoencoder: `sdcodec models fit`."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdcodec import hardware
from sdcodec.bundles import loading
from sdcodec.bundles.store import Bundle, is_shipped
from sdcodec.bundles.writing import NewPrior, add_prior
from sdcodec.coding.tables import FrequencyTables
from sdcodec.constants import QUALITY_LEVELS, SCALE_MIN, SCALE_RATIO
from sdcodec.errors import BundleError, TrainingError
from sdcodec.priors.config import PriorConfig
from sdcodec.priors.learned import LearnedPrior
from sdcodec.priors.passes import PASSES, PASSES_IN_PARTS
from sdcodec.priors.protocol import Prior
from sdcodec.priors.sources import CostEstimator
from sdcodec.training.direct_path import solve_direct
from sdcodec.training.export import observed_tables, prior_tensors
from sdcodec.training.optim import Optimisers, rate_factor
from sdcodec.training.prior_data import (
    SMALLEST_LATENTS,
    Crops,
    FitConfig,
    Say,
    cached_latents,
    deviations,
    expected_bits,
)
from sdcodec.training.prior_network import PriorNetwork

__all__ = ["FitConfig", "Fitted", "fit_prior", "prior_config", "train_prior"]

CONTEXT_LIMIT = 1152  # inputs of a context layer: 5x5 up to 46 channels, 3x3 up to 128, 1x1 above
PARTS_KERNEL = 5  # reaches the neighbours of a pass in parts, two latents away
VALIDATION_QUALITIES = (10.0, 30.0, 50.0, 70.0, 90.0)
TABLE_CROPS = 64
CACHE_SHARE = 0.25  # of the time; latents are made once, before the training
FINAL_SHARE = 0.35  # of the training: with the rounding of the export, while the learning rate falls
WARMUP_SHARE = 0.03
AVERAGING = 0.995
WEIGHT_DECAY = 0.01  # of parameters other than matrices


@dataclass(frozen=True)
class Fitted:
    """The bundle with its new prior, and bits per latent on validation images.

    They are means over qualities; `bits_before` is that of the bundle's previous prior.
    """

    bundle: Bundle
    num_steps: int
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
    """Train a learned prior for a bundle's latents and put it before its other priors.

    `folders`: photographs, searched with their subfolders. The quantiser (`gain`) is that of the bundle's first
    prior. Nothing is written before the end: an interrupted run leaves the bundle as it was. `say` gets the progress,
    a line at a time.

    Raises TrainingError if there are no images, too small ones, or, with `only_if_better`, if the fitted prior takes
    more bits than the present one; BundleError for a damaged bundle, or one that comes with sdcodec.
    """
    config = config or FitConfig()
    _check(config)
    if is_shipped(bundle):
        raise BundleError(
            f"the model {bundle.name!r} comes with sdcodec and stays as it is; name a model that was added, or copy its folder"
        )
    started = time.monotonic()
    on = hardware.device(device)
    model = loading.load(bundle, bundle.priors[0], on, torch.float32)
    until = math.inf if config.num_steps else started + CACHE_SHARE * 60 * config.minutes
    training, validation = cached_latents(model.autoencoder, folders, config, on, until, say)
    until = math.inf if config.num_steps else started + 60 * config.minutes
    network, num_steps = train_prior(training, model.quantiser.gain.cpu(), config, on, until, say)
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
    return Fitted(written, num_steps, len(training) + len(validation), bits, before)


def _check(config: FitConfig) -> None:
    if config.num_steps < 0 or config.pictures < 0 or not 0 < config.minutes < math.inf:
        raise TrainingError("minutes are positive, steps and pictures not negative")
    if config.width < 4 or config.width % 4 or config.blocks < 0 or config.hyper_channels < 1 or config.batch < 1:
        raise TrainingError("width is a positive multiple of 4, blocks at least 0, hyper-channels and batch at least 1")
    if config.crop < SMALLEST_LATENTS or config.crop % 4:
        raise TrainingError(f"crops are multiples of 4 latents, from {SMALLEST_LATENTS} up")


# Training


def prior_config(channels: int, config: FitConfig) -> PriorConfig:
    """Return widths for a number of channels.

    The context's kernel is the largest whose sums stay short.
    """
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
    """Train and return the averaged network and its number of training steps.

    They are `config.num_steps`, or those until the time `until`.
    """
    torch.manual_seed(config.seed)
    crops = Crops(latents, config)
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
        done = step / config.num_steps if config.num_steps else (time.monotonic() - begun) / max(until - begun, 1e-3)
        if done >= 1 and step > 0:
            break
        torch.manual_seed(config.seed * 1_000_003 + step)
        network.set_quantise(done >= 1 - FINAL_SHARE)
        optimisers.zero_grad()
        quality_index = _spread_qualities(config.batch)
        scaled = (crops.batch(step, config.batch) * gain[quality_index][:, :, None, None]).to(on)
        bits = network(scaled, quality_index.to(on) / 2).bits / scaled[0].numel()
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
    """Build a network that begins with each channel's own scale at each quality."""
    channels = gain.shape[1]
    network = PriorNetwork(prior_config(channels, config), float((gain[-1] / gain[0]).log().mean()))
    scale = (deviations(latents) * gain).clamp(min=1e-6).log()  # [201, C]
    with torch.no_grad():
        count = network.context_gain.values.shape[0]
        at_knots = scale[torch.linspace(0, QUALITY_LEVELS - 1, count).round().long()]
        network.context_gain.values.copy_(-at_knots)
        network.mean_gain.values.copy_(at_knots)
        network.scale_base.values.copy_((at_knots - math.log(SCALE_MIN)) / SCALE_RATIO)
        # Hyper-latents begin small, so that they cost little: contexts predict most of their content.
        network.hyper_gain.values.sub_(math.log(4))
        network.hyper_scale.values.fill_((math.log(0.4) - math.log(SCALE_MIN)) / SCALE_RATIO)
    return network


def _spread_qualities(count: int) -> Tensor:
    """Return quality indices, one in each of `count` equal parts of the range."""
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


# Parameters in units of the 64 table indices have higher learning rates than weights.
_FASTER = {"scale_base": 30.0, "hyper_scale": 30.0, "head.bias": 10.0, "gain": 2.0, "quality": 2.0}


# Export


def _exported(
    network: PriorNetwork, latents: list[Tensor], gain: Tensor, config: FitConfig
) -> tuple[dict[str, Tensor], FrequencyTables]:
    tensors = prior_tensors(network)
    return tensors, observed_tables(network.config, tensors, _table_batches(latents, gain, config))


def _table_batches(latents: list[Tensor], gain: Tensor, config: FitConfig) -> Iterator[tuple[Tensor, int]]:
    crops = Crops(latents, config)
    for index in range(min(TABLE_CROPS // 4, len(latents))):
        batch = crops.batch(-1 - index & 0xFFFFFF, 4)  # windows that no training step takes
        for quality_index in range(index % 20, QUALITY_LEVELS, 20):
            yield batch * gain[quality_index][:, None, None], quality_index


@torch.no_grad()
def _bits(prior: Prior, latents: list[Tensor], gain: Tensor) -> float:
    """Return bits per latent with side information, a mean over images and qualities."""
    results = []
    for own in latents:
        for quality in VALIDATION_QUALITIES:
            quality_index = round(2 * quality)
            scaled = own[None].to(gain.device) * gain[quality_index][:, None, None]
            counter = CostEstimator(scaled, prior.hyper_latents(scaled, quality_index), prior.tables)
            prior.walk((1, *own.shape[1:]), quality_index, counter)
            results.append(counter.bits / own.numel())
    return float(np.mean(results))
