"""The realism stage: a second, vivid decoder for the same files.

The decoder at realism 0 stays the codec's. A copy of it, at realism 1, is trained with DISTS weighing more; weights
between the two (ESRGAN) give what lies between. A discriminator can be added. The norm of its gradient is a constant
share of the distortion's norm, both at the decoded image (as EnCodec's balancer does it), so that its weight does not
depend on the loss.

One decoder told its realism by biases (Agustsson et al., CVPR 2023) was tried first: both ends moved together, and
DISTS at 1 stayed within 1% of that at 0 (docs/training.md).
"""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdcodec.perceptual.lpips import LPIPS
from sdcodec.training.checkpoint import check_like
from sdcodec.training.config import TrainingConfig
from sdcodec.training.discriminator import Discriminator, accuracies, adversarial_loss, discriminator_loss
from sdcodec.training.guard import NormLimit
from sdcodec.training.model import TrainingModel, beta_of
from sdcodec.training.optim import Optimisers
from sdcodec.training.stages import CodecStage
from sdcodec.training.validation import validate

ALONE, RAMP = 0.04, 0.08  # shares of the stage: the discriminator alone, then its weight rises
FOLLOWED = 0.3  # share of the stage after which its weight stays: one that follows the norms to the end can swing
NORM_DECAY = 0.99
SHIFTS = 16  # pixels; VGG-16's coarsest level has this stride
REALISMS = (0.0, 0.25, 0.5, 0.625, 0.75, 1.0)  # tried for the default
LARGEST_LOSS = 0.6  # dB of PSNR that the default realism may cost
LEAST_FALL = 0.02  # of DISTS, relative, per unit of realism, for the default to rise


class RealismStage(CodecStage):
    """The vivid decoder, if wanted against a discriminator."""

    realism = 1.0

    def __init__(self, config: TrainingConfig, model: TrainingModel, device: torch.device) -> None:
        """Load the distances, and build the discriminator unless `adversarial` is 0.

        Raises TrainingError as `RateDistortion`.
        """
        super().__init__(config, model, device)
        self.rate = config.realism_rate
        self.discriminator: Discriminator | None = None
        if not config.adversarial:
            return
        trunk = self.objective.vgg_terms["lpips_vgg"][1]
        assert isinstance(trunk, LPIPS)  # by the check of the configuration
        self.trunk = trunk
        self.discriminator = Discriminator(config.autoencoder.latent_channels).to(device)
        self.heads = list(self.discriminator.parameters())
        self.optimisers = Optimisers([], [{"params": self.heads}], config.discriminator_rate)
        self.limit = NormLimit(device)
        self.norms = torch.zeros(2, device=device)  # of the distortion's and of the adversarial gradient
        self.ramp = torch.zeros((), device=device)
        self.follow = True

    def trains(self, name: str) -> bool:
        """See CodecStage."""
        return name.startswith("vivid.")

    def begin(self, progress: float, rate_factor: float) -> Hashable:
        """See CodecStage."""
        self.model.prior.set_quantise(True)
        if self.discriminator is None:
            return None
        self.optimisers.set_rate(rate_factor)
        self.ramp.fill_(min(1.0, max(0.0, (progress - ALONE) / RAMP)))
        self.follow = progress < FOLLOWED
        return self.follow

    def backward(self, images: Tensor, inputs: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """See CodecStage."""
        [quality] = inputs
        with self.objective.low_precision():
            with torch.no_grad():
                coded = self.model.coded(images, quality)
            latents = self.model.unscaled(coded.decoded, quality)
            decoded = self.model.decode(latents, quality, self.realism).float()
        leaf = decoded.detach().requires_grad_()
        further = {"dists": self.config.realism_dists}
        distortion, parts = self.objective.distortion(leaf, images, quality, training=True, further=further)
        weights = beta_of(quality) * self.objective.balance(quality)
        loss = (weights * distortion).mean()
        [gradient] = torch.autograd.grad(loss, leaf)
        found = {name: value.detach().mean() for name, value in parts.items()} | {"loss": loss.detach()}
        fine = torch.ones((), dtype=torch.bool, device=self.device)
        if self.discriminator is not None:
            told = torch.cat([latents.detach(), (quality / 100).view(-1, 1, 1, 1).expand_as(latents[:, :1])], 1)
            weights = weights * self.config.lpips_at_low ** (1 - quality / 100)
            addition, more, fine = self._adversarial(self.discriminator, leaf, images, told, weights, gradient)
            gradient, found = gradient + addition, found | more
        decoded.backward(gradient)
        return found, fine

    def _adversarial(
        self,
        discriminator: Discriminator,
        decoded: Tensor,
        images: Tensor,
        told: Tensor,
        weights: Tensor,
        gradient: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Return the adversarial gradient, figures, and whether the step is sound.

        The gradient is weighted. The discriminator's own gradients are left on its parameters. It sees the first
        `vgg_images` of a batch.
        """
        seen = self.config.vgg_images or len(images)
        fake, real = _moved(decoded[:seen], images[:seen])
        with self.objective.low_precision():
            logits = discriminator(fake, self.trunk.activations(fake), told[:seen])
        loss = adversarial_loss([each.float() for each in logits], weights[:seen])
        [found] = torch.autograd.grad(loss, decoded)
        if self.follow:
            norms = torch.stack([gradient[:seen].norm(), found.norm()])
            self.norms.lerp_(torch.where(norms.isfinite().all(), norms, self.norms), 1 - NORM_DECAY)
        factor = self.config.adversarial * self.ramp * self.norms[0] / self.norms[1].clamp(min=1e-20)
        with torch.no_grad(), self.objective.low_precision():
            rounded = (255 * fake).round().clamp(0, 255) / 255  # real pictures have eight bits too
            activations = self.trunk.activations(rounded), self.trunk.activations(real)
        with self.objective.low_precision():
            fakes = [each.float() for each in discriminator(rounded, activations[0], told[:seen])]
            reals = [each.float() for each in discriminator(real, activations[1], told[:seen])]
        own = discriminator_loss(reals, fakes)
        for parameter, slope in zip(self.heads, torch.autograd.grad(own, self.heads), strict=True):
            parameter.grad = slope
        norm = torch.nn.utils.clip_grad_norm_(self.heads, self.config.gradient_clip)
        figures = {"adversarial": loss.detach(), "discriminator": own.detach(), "adversarial_weight": factor}
        return factor * found, figures | accuracies(reals, fakes), self.limit(norm) & found.isfinite().all()

    def finish(self, counts: Tensor) -> None:
        """See CodecStage."""
        if self.discriminator is None:
            return
        for parameter in self.heads:
            if parameter.grad is not None:
                parameter.grad.masked_fill_(~counts, 0.0)
        self.optimisers.step(counts)

    def validate(self, images: NDArray[np.uint8]) -> dict[str, float]:
        """Return means at realism 0 and 1, as `r0_...` and `r1_...`."""
        found: dict[str, float] = {}
        for realism in (0.0, 1.0):
            means = validate(self.model.eval(), self.objective, images, self.device, realism)
            found |= {f"r{realism:g}_{name}": value for name, value in means.items()}
        return {"loss": (found["r0_loss"] + found["r1_loss"]) / 2} | found

    def state(self) -> dict[str, Any]:
        """See CodecStage."""
        if self.discriminator is None:
            return {}
        return {
            "discriminator": self.discriminator.state_dict(),
            "optimisers": self.optimisers.state(),
            "limit": self.limit.state(),
            "norms": self.norms,
        }

    def check(self, path: Path, state: Any) -> None:
        """See CodecStage."""
        if self.discriminator is None or not isinstance(state, dict) or "optimisers" not in state:
            super().check(path, state)
            return
        self.optimisers.check(path, state["optimisers"])
        wanted = self.state() | {"optimisers": None}
        check_like(path, "the state of the stage", state | {"optimisers": None}, wanted)

    def restore(self, state: dict[str, Any]) -> None:
        """See CodecStage."""
        if self.discriminator is None:
            return
        self.discriminator.load_state_dict(state["discriminator"])
        self.optimisers.restore(state["optimisers"])
        self.limit.restore(state["limit"])
        self.norms.copy_(state["norms"])


def _moved(decoded: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Cut both by the same random shift, and flip both in half of the steps.

    A network with strides that always sees the same phase would teach the decoder a pattern for it.
    """
    side, device = images.shape[-1] - SHIFTS + 1, images.device
    top, left = torch.randint(SHIFTS, (2, 1), device=device)
    rows, columns = top + torch.arange(side, device=device), left + torch.arange(side, device=device)
    columns = torch.where(torch.rand(1, device=device) < 0.5, columns, columns.flip(0))
    first, second = (x.index_select(2, rows).index_select(3, columns) for x in (decoded, images))
    return first, second


def choose_realism(stage: RealismStage, images: NDArray[np.uint8]) -> float:
    """Return the default realism; print the figures of each on validation crops.

    It is the largest whose PSNR is at most 0.6 dB below that of realism 0, with DISTS falling up to it; 0 without
    crops or without DISTS.
    """
    if not len(images) or "dists" not in stage.objective.vgg_terms:
        print("default realism 0: it takes validation images and VGG-16's weights to choose it", flush=True)
        return 0.0
    chosen, falling, rows = 0.0, True, list[tuple[float, float, float]]()
    for realism in REALISMS:
        means = validate(stage.model.eval(), stage.objective, images, stage.device, realism)
        psnr, dists = (
            float(np.mean([value for name, value in means.items() if name.endswith(f"_{figure}")]))
            for figure in ("psnr", "dists")
        )
        if rows:
            before, _, dists_before = rows[-1]
            falling = falling and dists <= (1 - LEAST_FALL * (realism - before)) * dists_before
        rows.append((realism, psnr, dists))
        if falling and psnr >= rows[0][1] - LARGEST_LOSS:
            chosen = realism
        print(f"realism {realism:g}: PSNR {psnr:.2f} dB, DISTS {dists:.4f}", flush=True)
    print(f"default realism {chosen:g}", flush=True)
    return chosen
