"""The networks that predict hyper-latents from their neighbours, trained by themselves before a run.

Hyper-latents are a few hundredths of all bits, so that beside everything else these networks learn next to nothing in a thousand
steps. Alone, on hyper-latents that are made once, a step takes a fiftieth of the time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdcodec.errors import TrainingError
from sdcodec.training.model import TrainingModel
from sdcodec.training.optim import Optimisers, rate_factor

QUALITIES = (0.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0, 80.0, 100.0)
BATCH = 24
LEARNING_RATE = 3e-3
WARMUP = 20
DECAY_SHARE = 0.6  # of the steps, over which the learning rate falls to nothing
VALIDATION_SHARE = 8  # one crop in so many is kept to tell what was gained


def fit_hyper_passes(model: TrainingModel, images: Tensor, steps: int) -> tuple[float, float]:
    """Trains them in place on `images` `[N, 3, H, W]`, uint8, H and W multiples of 32; the rest of the model stays.

    Returns hyper-latents' bits per pixel, a mean over qualities, on crops that are kept aside: before and after. Raises
    TrainingError where the model has no such networks, or there are too few images.
    """
    prior = model.prior
    if not len(prior.hyper_passes):
        raise TrainingError(
            "hyper_steps: this model has no networks for hyper-latents; grow_hyper_context gives it some"
        )
    kept = len(images) // VALIDATION_SHARE
    if not kept:
        raise TrainingError(f"hyper_steps: {VALIDATION_SHARE} photographs or more are wanted")
    pixels = images[0, 0].numel()
    hyper = _hyper_latents(model, images)
    network = prior.hyper_passes
    tables = [prior.hyper_mean.values, prior.hyper_scale.values]
    matrices = [step.context.weight for step in network]
    rest = [p for p in network.parameters() if all(p is not m for m in matrices)] + tables
    optimisers = Optimisers(matrices, rest, LEARNING_RATE)
    quantised, given = prior.quantise, prior.latents_are_given
    prior.set_quantise(True)
    prior.latents_are_given = True

    def bits(level: int, which: Tensor) -> Tensor:
        chosen = hyper[level][which]
        return prior.hyper_bits(chosen, torch.full((len(chosen),), QUALITIES[level], device=chosen.device)).mean()

    @torch.no_grad()
    def validated() -> float:
        prior.eval()
        found = sum(float(bits(level, torch.arange(kept))) for level in range(len(QUALITIES)))
        prior.train()
        return found / len(QUALITIES) / pixels

    before = validated()
    for step in range(steps):
        loss = bits(step % len(QUALITIES), torch.randint(kept, len(images), (BATCH,))) / pixels
        optimisers.zero_grad()
        loss.backward()
        optimisers.set_rate(rate_factor(step + 1, steps - step, WARMUP, DECAY_SHARE * steps))
        optimisers.step()
    optimisers.zero_grad()
    prior.set_quantise(quantised)
    prior.latents_are_given = given
    return before, validated()


@torch.no_grad()
def _hyper_latents(model: TrainingModel, images: Tensor) -> list[Tensor]:
    """For each of the qualities, `[N, Z, H/32, W/32]`, in steps and not rounded."""
    found: list[list[Tensor]] = [[] for _ in QUALITIES]
    device = model.gain.values.device
    for batch in images.split(4):
        latents = model.encoder(batch.to(device).float() / 255).float()
        for level, quality in enumerate(QUALITIES):
            at = torch.full((len(batch),), quality, device=device)
            steps = latents * model.gain(at).exp()[:, :, None, None]
            found[level].append(model.prior.hyper_latents(steps, at))
    return [torch.cat(parts) for parts in found]
