"""Rate–distortion loss of a training run."""

from __future__ import annotations

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

    def __call__(self, model: TrainingModel, images: Tensor, quality: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and the means of its parts."""
        config, training = self.config, model.training
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            output = model(images, quality)
            # AlexNet has a stride of 4: at a fixed phase the decoder learns a grid that is good at that phase only.
            pair = from_random_phase(output.images, images, ALEXNET[0].stride) if training else (output.images, images)
            perceptual = self.lpips.distance(*pair)
        reconstructed = output.images.float()
        error = 255 * (reconstructed - images)
        squared = losses.squared(error)
        limited = error.clamp(-losses.LARGEST_ERROR, losses.LARGEST_ERROR)
        parts = {"mse": squared, "lpips": perceptual, "cast": losses.cast(limited), "grid": losses.grid(limited)}
        parts |= _rates(output.coded, images)
        towards_low = config.lpips_at_low ** (1 - quality / 100)
        distortion = config.lpips_weight * towards_low * perceptual
        distortion += (squared + config.cast_weight * parts["cast"] + config.grid_weight * parts["grid"]) / ERROR_UNIT
        if config.structure_weight:
            parts["structure"] = losses.structure(reconstructed, images)
            distortion = distortion + config.structure_weight * towards_low * parts["structure"]
        looked_at = config.vgg_images if training else 0
        for name, (weight, term) in self.vgg_terms.items():
            parts[name] = on_some(term, reconstructed, images, looked_at)
            distortion = distortion + weight * towards_low * parts[name]
        cost = config.rate_weight * parts["bpp"] + beta_of(quality) * distortion
        # Rate and weighted distortion both grow about like the square root of beta: without this, high rates would rule.
        balance = (beta_of(quality) / beta_of(torch.tensor(50.0))) ** -config.evening
        return (cost * balance).mean(), {name: value.detach().mean() for name, value in parts.items()}


def from_random_phase(reconstructed: Tensor, images: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Cut `stride` - 1 rows and columns off both, at random between both sides."""
    _, _, height, width = images.shape
    top, left = torch.randint(stride, (2, 1), device=images.device)
    rows = top + torch.arange(height - stride + 1, device=images.device)
    columns = left + torch.arange(width - stride + 1, device=images.device)
    first, second = (x.index_select(2, rows).index_select(3, columns) for x in (reconstructed, images))
    return first, second


def on_some(term: DISTS | LPIPS, reconstructed: Tensor, images: Tensor, looked_at: int) -> Tensor:
    """Return a distance `[B]` of the first `looked_at` pairs, 0 for the others.

    It is scaled so that its expected mean is that of all. Qualities come in random order, so the first ones are a
    random choice. `looked_at` = 0: all of them.
    """
    count = images.shape[0]
    looked_at = min(looked_at, count) or count
    found = term.distance(reconstructed[:looked_at], images[:looked_at])
    return F.pad(found * (count / looked_at), (0, count - looked_at))


def _rates(coded: Coded, images: Tensor) -> dict[str, Tensor]:
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
