"""Export of a trained model: the prior in integers, quality tables, frequencies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sdcodec.autoencoders.conv import FACTOR, ConvConfig
from sdcodec.bundles.loading import prior_parts, read_tensors
from sdcodec.bundles.store import COMPLEXITY, Bundle
from sdcodec.bundles.writing import NewPrior, keep_priors, write_bundle
from sdcodec.coding.tables import FrequencyTables, blended_tables, gaussian_tables, scales
from sdcodec.constants import ACTIVATION_ONE, MEAN_ONE, QUALITY_LEVELS, RATIO_ONE, SCALE_COUNT, WEIGHT_LIMIT
from sdcodec.errors import TrainingError
from sdcodec.priors.blocks import Block
from sdcodec.priors.config import PriorConfig
from sdcodec.priors.learned import LearnedPrior
from sdcodec.priors.sources import SymbolQuantiser
from sdcodec.training.complexity import kmac_per_pixel
from sdcodec.training.knots import Knots
from sdcodec.training.model import TrainingModel
from sdcodec.training.prior_layers import weight_shift
from sdcodec.training.prior_network import PriorNetwork


def quality_rows(knots: Knots) -> Tensor:
    """Return the knots' function at each quality index, float64 `[201, channels]`."""
    with torch.no_grad():
        values = knots.values.double().cpu()
        position = torch.arange(QUALITY_LEVELS, dtype=torch.float64) / (QUALITY_LEVELS - 1) * (values.shape[0] - 1)
        low = position.floor().clamp(max=values.shape[0] - 2).long()
        weight = (position - low)[:, None]
        return values[low] * (1 - weight) + values[low + 1] * weight


def prior_tensors(prior: PriorNetwork) -> dict[str, Tensor]:
    """Return every tensor of `LearnedPrior` by name.

    They are whole numbers but for the encoder's `analyse` layers.
    """
    tensors: dict[str, Tensor] = {}

    def layer(name: str, weight: Tensor, bias: Tensor | None, rows: Knots | None = None, repeat: int = 1) -> Tensor:
        """Store one layer.

        `rows` is a bias that depends on quality, each value for `repeat` neighbouring outputs.
        """
        shift = weight_shift(weight).cpu()
        flat = weight.detach().cpu().double().flatten(1)
        whole = (flat * torch.exp2(shift.double())[:, None]).round().clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT)
        total = (
            torch.zeros(1, flat.shape[0], dtype=torch.float64) if bias is None else bias.detach().cpu().double()[None]
        )
        if rows is not None:
            total = total + quality_rows(rows).repeat_interleave(repeat, 1)
        # The bias counts in units of the sums; half a unit is added, so that rounding down rounds to the nearest.
        units = (total * ACTIVATION_ONE * torch.exp2(shift.double())).round() + torch.exp2(shift.double() - 1).floor()
        tensors[f"{name}.weight"] = whole.to(torch.int8)
        tensors[f"{name}.bias"] = units.to(torch.int32)
        tensors[f"{name}.shift"] = shift.to(torch.int8)
        return shift

    def ratio(values: Tensor) -> Tensor:
        return (values * RATIO_ONE).round().to(torch.int64)

    def head(name: str, last: nn.Conv2d, gain: Tensor) -> None:
        """Store a pass's last layer, whose sums are not shifted.

        `gain` `[201, channels]`: sixteenths of a step in an activation of 1.
        """
        shift = layer(f"{name}.head", last.weight, last.bias)
        tensors[f"{name}.head.bias"] -= torch.exp2(shift - 1).floor().to(torch.int32)
        unit = torch.exp2(-shift.double()) / ACTIVATION_ONE
        channels = gain.shape[1]
        tensors[f"{name}.mean_multiplier"] = ratio(gain * unit[:channels])
        tensors[f"{name}.table_multiplier"] = ratio(unit[None, channels:])

    layer("synthesise_1", prior.synthesise_1.weight, prior.synthesise_1.bias, prior.quality_1, 4)
    layer("synthesise_2", prior.synthesise_2.weight, prior.synthesise_2.bias, prior.quality_2, 4)
    layer("synthesise_3", prior.synthesise_3.weight, prior.synthesise_3.bias, prior.quality_3)
    sixteenths = MEAN_ONE
    tensors["hyper_mean"] = (quality_rows(prior.hyper_mean) * sixteenths).round().to(torch.int64)
    tensors["hyper_table"] = quality_rows(prior.hyper_scale).round().clamp(0, SCALE_COUNT - 1).to(torch.int64)
    tensors["hyper_multiplier"] = ratio(quality_rows(prior.hyper_input).exp() * ACTIVATION_ONE / sixteenths)
    tensors["context_multiplier"] = ratio(quality_rows(prior.context_gain).exp() * ACTIVATION_ONE / sixteenths)
    tensors["table_offset"] = ratio(quality_rows(prior.scale_base))
    if prior.hyper_passes:
        tensors["hyper_offset"] = ratio(quality_rows(prior.hyper_scale))
    for k, step in enumerate(prior.hyper_passes, start=1):
        layer(f"hyper{k}.entry", step.context.weight, None, step.quality)
        head(f"hyper{k}", step.head, sixteenths / quality_rows(prior.hyper_input).exp())
    gain = quality_rows(prior.mean_gain).exp() * sixteenths
    for k, step in enumerate(prior.passes):
        weight = step.features.weight.flatten(1)
        if step.context is not None:
            weight = torch.cat([step.context.weight.flatten(1), weight], 1)
        shift = layer(f"pass{k}.entry", weight, None, step.quality)
        cell = step.cell.detach().cpu().double() * ACTIVATION_ONE * torch.exp2(shift.double())
        tensors[f"pass{k}.cell"] = cell.round().to(torch.int32)
        for block, (expand, project) in enumerate(zip(step.expand, step.project, strict=True)):
            layer(f"pass{k}.expand{block}", expand.weight, expand.bias)
            layer(f"pass{k}.project{block}", project.weight, project.bias)
        head(f"pass{k}", step.head, gain)
        if step.direct is not None:
            shift = layer(f"pass{k}.direct", step.direct.weight, None)
            tensors[f"pass{k}.direct.bias"].zero_()  # its sums are not shifted either
            tensors[f"pass{k}.direct_multiplier"] = ratio(gain * torch.exp2(-shift.double()) / ACTIVATION_ONE)
    tensors["analyse_input"] = quality_rows(prior.context_gain).exp().float()
    tensors["analyse_output"] = quality_rows(prior.hyper_gain).exp().float()
    return tensors | _analysis_tensors(prior)


def _analysis_tensors(prior: PriorNetwork) -> dict[str, Tensor]:
    """Return the layers from latents to hyper-latents, which only the encoder runs."""
    return {
        f"{layer}.{name}": value.detach().cpu().float().contiguous()
        for layer in ("analyse_1", "analyse_2", "analyse_3")
        for name, value in getattr(prior, layer).state_dict().items()
    }


class _Counter(SymbolQuantiser):
    """Counts the symbols under each table."""

    def __init__(self, scaled: Tensor, hyper: Sequence[Tensor], tables: FrequencyTables) -> None:
        super().__init__(scaled, hyper, tables)
        self.counts = [np.zeros(2 * reach + 2) for reach in tables.radius]
        self._radius = tables.radius

    def take(self, blocks: Sequence[Block], symbols: NDArray[np.int64], tables: NDArray[np.int64]) -> None:
        for table in np.unique(tables):
            reach = int(self._radius[table])
            chosen = symbols[tables == table]
            bins = np.where(np.abs(chosen) <= reach, chosen + reach, 2 * reach + 1)
            self.counts[table] += np.bincount(bins, minlength=2 * reach + 2)


@torch.no_grad()
def observed_tables(
    config: PriorConfig, tensors: dict[str, Tensor], batches: Iterable[tuple[Tensor, int]]
) -> FrequencyTables:
    """Fit the tables: Gaussians, moved towards the symbols observed under each.

    `batches`: scaled latents and their quality indices.
    """
    base = gaussian_tables(scales())
    prior = LearnedPrior(config, tensors, base, torch.device("cpu"))
    counts: list[NDArray[np.float64]] | None = None
    for scaled, quality_index in batches:
        counter = _Counter(scaled, prior.hyper_latents(scaled, quality_index), base)
        prior.walk((scaled.shape[0], scaled.shape[2], scaled.shape[3]), quality_index, counter)
        counts = counter.counts if counts is None else [a + b for a, b in zip(counts, counter.counts, strict=True)]
    if counts is None:
        raise TrainingError("no images to fit the frequency tables to; give the export a folder of photographs")
    return blended_tables(base, counts)


@torch.no_grad()
def _scaled_latents(model: TrainingModel, images: NDArray[np.uint8]) -> Iterator[tuple[Tensor, int]]:
    """Yield scaled latents of `[N, H, W, 3]` at qualities that cover the range.

    A batch has four photographs.
    """
    gains = quality_rows(model.gain).exp().float()
    for start in range(0, len(images), 4):
        batch = torch.from_numpy(images[start : start + 4]).permute(0, 3, 1, 2).float() / 255
        latents = model.encoder(batch).float()
        for quality_index in range((start // 4) % 20, QUALITY_LEVELS, 20):
            yield latents * gains[quality_index][None, :, None, None], quality_index


def export(
    weights: dict[str, Tensor],
    autoencoder: ConvConfig,
    prior: PriorConfig,
    images: NDArray[np.uint8],
    folder: Path,
    name: str,
    description: dict[str, Any],
) -> Bundle:
    """Write a bundle folder from trained weights.

    `images` uint8 `[N, H, W, 3]`, sides multiples of 32, fit the tables.
    """
    model = TrainingModel(autoencoder, prior)
    model.load_state_dict(weights)
    model.float().eval()
    tensors = prior_tensors(model.prior)
    tables = observed_tables(prior, tensors, _scaled_latents(model, images))
    gain, inverse_gain = (quality_rows(knots).exp().float() for knots in (model.gain, model.inverse_gain))
    return _written(
        model, folder, name, NewPrior("learned", asdict(prior), tensors, tables, gain, inverse_gain), description
    )


def export_decoder(
    weights: dict[str, Tensor],
    autoencoder: ConvConfig,
    prior: PriorConfig,
    source: Bundle,
    folder: Path,
    description: dict[str, Any],
) -> Bundle:
    """Write `source` with another decoder.

    Encoder, priors, tables and gains are copied, and with them the fingerprints: earlier files decode with the new
    decoder.
    """
    model = TrainingModel(autoencoder, prior)
    model.load_state_dict(weights)
    stored = read_tensors(source.folder / source.priors[0].file)
    inverse_gain = quality_rows(model.inverse_gain).exp()
    kept = NewPrior("learned", source.priors[0].configuration, *prior_parts(stored), stored["gain"], inverse_gain)
    realism = source.default_realism if source.default_realism is not None else 0.0
    return keep_priors(_written(model, folder, source.name, kept, description, realism), source)


def _written(
    model: TrainingModel,
    folder: Path,
    name: str,
    prior: NewPrior,
    description: dict[str, Any],
    default_realism: float = 0.0,
) -> Bundle:
    return write_bundle(
        folder,
        name=name,
        autoencoder="conv",
        configuration=model.autoencoder.stored() | {"factor": FACTOR},
        weights=_autoencoder_tensors(model),
        prior=prior,
        description=description | {COMPLEXITY: kmac_per_pixel(model)},
        default_realism=default_realism if model.autoencoder.realism else None,
    )


def _autoencoder_tensors(model: TrainingModel) -> dict[str, Tensor]:
    tensors = {
        f"{part}.{key}": value.detach().half().contiguous()
        for part in ("encoder", "decoder", *(["vivid"] if model.autoencoder.realism else []))
        for key, value in getattr(model, part).state_dict().items()
    }
    tensors["decoder_bias"] = quality_rows(model.decoder_bias).half()
    _check_finite(tensors)
    return tensors


def _check_finite(tensors: dict[str, Tensor]) -> None:
    if not all(bool(value.isfinite().all()) for value in tensors.values()):
        raise TrainingError("weights exceed float16: the run has diverged; begin again with a lower learning_rate")
