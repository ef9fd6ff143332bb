"""Rate–distortion loss of a training run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sdcodec import hardware
from sdcodec.errors import OptionError, TrainingError
from sdcodec.perceptual.dists import DISTS
from sdcodec.perceptual.lpips import LPIPS
from sdcodec.perceptual.trunks import ALEXNET
from sdcodec.perceptual.vgg import find_vgg16, read_vgg16
from sdcodec.training import losses
from sdcodec.training.config import TrainingConfig
from sdcodec.training.model import TrainingModel, beta_of
from sdcodec.training.prior_network import Coded

ERROR_UNIT = 400  # squared error on 0..255 that costs as much as a bit if beta is 1


class RateDistortion:
    """Rate–distortion loss, balanced over qualities.

    v · bits per pixel + β · (MSE₂₅₅ / 400 + w · LPIPS + ...).
    """

    def __init__(self, config: TrainingConfig, device: torch.device) -> None:
        """Load the distances.

        Raises TrainingError if the loss needs VGG-16's weights and their file is missing or unusable.
        """
        self.config, self.device = config, device
        # On hardware without bfloat16, emulating it takes many times as long as float32.
        self.autocast = config.autocast and hardware.dtype("auto", device) == torch.bfloat16
        self.lpips = LPIPS().to(device, memory_format=torch.channels_last)
        self.vgg_terms = {name: (weight, term.to(device)) for name, (weight, term) in _vgg_terms(config).items()}

    def __call__(
        self, model: TrainingModel, images: Tensor, quality: Tensor, realism: float = 0.0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and the means of its parts; inputs as for `TrainingModel`."""
        with self.low_precision():
            output = model(images, quality, realism)
        distortion, parts = self.distortion(output.images, images, quality, training=model.training)
        parts |= rates(output.coded, images)
        cost = self.config.rate_weight * parts["bpp"] + beta_of(quality) * distortion
        loss = (cost * self.balance(quality)).mean()
        return loss, {name: value.detach().mean() for name, value in parts.items()}

    def distortion(
        self,
        reconstructed: Tensor,
        images: Tensor,
        quality: Tensor,
        *,
        training: bool,
        further: dict[str, float] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the distortion of each image, `[B]`, and its parts.

        further: factors on the weights of parts, by name.
        """
        config, further = self.config, further or {}
        reconstructed = reconstructed.float()
        # AlexNet has a stride of 4: at a fixed phase the decoder learns a grid that is good at that phase only.
        pair = from_random_phase(reconstructed, images, ALEXNET[0].stride) if training else (reconstructed, images)
        with self.low_precision():
            perceptual = self.lpips.distance(*pair)
        parts = self.pixel_terms(reconstructed, images) | {"lpips": perceptual}
        squared = parts["mse"]
        if not training:
            parts["psnr"] = 10 * torch.log10(255**2 / squared.clamp(min=1e-6))
        towards_low = config.lpips_at_low ** (1 - quality / 100)
        distortion = config.lpips_weight * towards_low * perceptual
        distortion += (squared + config.cast_weight * parts["cast"] + config.grid_weight * parts["grid"]) / ERROR_UNIT
        if config.structure_weight:
            distortion = distortion + config.structure_weight * towards_low * parts["structure"]
        seen = config.vgg_images if training else 0
        for number, (name, (weight, term)) in enumerate(self.vgg_terms.items()):
            with self.low_precision():
                parts[name] = on_some(term, reconstructed, images, seen, number * seen)
            distortion = distortion + weight * towards_low * further.get(name, 1.0) * parts[name]
        return distortion, parts

    def pixel_terms(self, reconstructed: Tensor, images: Tensor) -> dict[str, Tensor]:
        """Return the parts that need no network, of each image, `[B]`."""
        error = 255 * (reconstructed - images)
        limited = error.clamp(-losses.LARGEST_ERROR, losses.LARGEST_ERROR)
        parts = {"mse": losses.squared(error), "cast": losses.cast(limited), "grid": losses.grid(limited)}
        if self.config.structure_weight:
            parts["structure"] = losses.structure(reconstructed, images)
        return parts

    def balance(self, quality: Tensor) -> Tensor:
        """Return the factor on the costs of qualities, `[B]`.

        Rate and weighted distortion both grow about like the square root of beta: without it, high rates would rule.
        """
        return (beta_of(quality) / beta_of(torch.tensor(50.0))) ** -self.config.evening

    @contextmanager
    def exactly(self, exact: bool = True) -> Iterator[None]:
        """Compute everything in float32, or if told False as usual."""
        autocast = self.autocast
        self.autocast = autocast and not exact
        try:
            yield
        finally:
            self.autocast = autocast

    def low_precision(self) -> torch.autocast:
        """Compute inner convolutions in bfloat16, if settings and hardware allow it."""
        # A cache of cast weights must not outlive a recorded step.
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast, cache_enabled=False)


def from_random_phase(reconstructed: Tensor, images: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Cut `stride` - 1 rows and columns off both, at random between both sides."""
    _, _, height, width = images.shape
    top, left = torch.randint(stride, (2, 1), device=images.device)
    rows = top + torch.arange(height - stride + 1, device=images.device)
    columns = left + torch.arange(width - stride + 1, device=images.device)
    first, second = (x.index_select(2, rows).index_select(3, columns) for x in (reconstructed, images))
    return first, second


def on_some(term: DISTS | LPIPS, reconstructed: Tensor, images: Tensor, seen: int, first: int = 0) -> Tensor:
    """Return a distance `[B]` of `seen` pairs from `first` on, 0 for the others.

    It is scaled so that its expected mean is that of all. Qualities come in random order, so any pairs are a random
    choice. `seen` = 0: all of them.
    """
    count = images.shape[0]
    seen = min(seen, count) or count
    first = min(first, count - seen)
    part = slice(first, first + seen)
    found = term.distance(reconstructed[part], images[part])
    return F.pad(found * (count / seen), (first, count - seen - first))


def rates(coded: Coded, images: Tensor) -> dict[str, Tensor]:
    """Return bits per pixel of each image, of all latents and of hyper-latents."""
    pixels = images[0, 0].numel()
    return {"bpp": coded.bits / pixels, "hyper_bpp": coded.hyper_bits / pixels}


def _vgg_terms(config: TrainingConfig) -> dict[str, tuple[float, DISTS | LPIPS]]:
    """Return names, weights and distances of the loss's terms over VGG-16."""
    weights = {"dists": config.dists_weight, "lpips_vgg": config.lpips_vgg_weight}
    if not any(weights.values()):
        return {}
    path = Path(config.vgg) if config.vgg else find_vgg16()
    if path is None:
        raise TrainingError(
            "DISTS and LPIPS-VGG need VGG-16's weights; give their file as --vgg, or set dists_weight and lpips_vgg_weight to 0"
        )
    try:
        trunk = read_vgg16(path)
    except OptionError as error:
        raise TrainingError(str(error)) from error
    terms: dict[str, DISTS | LPIPS] = {"dists": DISTS(trunk), "lpips_vgg": LPIPS("vgg", trunk)}
    return {name: (weight, terms[name]) for name, weight in weights.items() if weight}
