"""From a bundle back to weights that can be trained further: the inverse of the export, to within its rounding."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sdcodec.autoencoders.tiny import TinyConfig
from sdcodec.bundles.loading import prior_parts, read_tensors
from sdcodec.bundles.store import Bundle
from sdcodec.errors import TrainingError
from sdcodec.priors.integer import ACTIVATION_BITS, MEAN_BITS, RATIO_BITS
from sdcodec.priors.passes import PASSES
from sdcodec.training.knots import KNOT_COUNT
from sdcodec.training.prior_network import PriorConfig

ACTIVATION_ONE = 1 << ACTIVATION_BITS


@dataclass(frozen=True)
class Restored:
    """Configurations of a bundle, and its weights by the names of `TrainingModel`."""

    tiny: TinyConfig
    prior: PriorConfig
    weights: dict[str, Tensor]


def restore(bundle: Bundle) -> Restored:
    """The weights that a bundle was exported from, as far as it tells.

    Weights of the prior come back as they are, in 8 bits; what depends on quality is read at the knots, so that a row
    between them may be a unit off when it is exported again; the rest is float16. Raises TrainingError for a bundle
    that was not made by `sdcodec train`.
    """
    if bundle.autoencoder != "tiny" or bundle.priors[0].kind != "learned":
        raise TrainingError(f"{bundle.folder}: only bundles with the autoencoder `tiny` can be trained further")
    tiny = TinyConfig(**bundle.configuration)
    autoencoder = read_tensors(bundle.folder / bundle.autoencoder_file)
    stored = read_tensors(bundle.folder / bundle.priors[0].file)
    tensors, _ = prior_parts(stored)
    weights = {name: value.float() for name, value in autoencoder.items() if name.startswith(("encoder.", "decoder."))}
    weights["decoder_bias.values"] = _knots(autoencoder["decoder_bias"])
    weights["gain.values"] = _knots(stored["gain"]).log()
    weights["inverse_gain.values"] = _knots(stored["inverse_gain"]).log()
    if "pass1.direct.weight" in tensors:
        raise TrainingError(f"{bundle.folder}: its first prior was made by `models fit`, not by a run that can go on")
    config = _prior_config(tensors)
    weights |= {f"prior.{name}": value for name, value in _prior_weights(tensors, config).items()}
    return Restored(tiny, config, {name: value.float() for name, value in weights.items()})


def _prior_config(tensors: Mapping[str, Tensor]) -> PriorConfig:
    """Widths, read off the tensors' shapes."""
    channels, hyper = tensors["context_multiplier"].shape[1], tensors["hyper_multiplier"].shape[1]
    width = tensors["synthesise_3.weight"].shape[0]
    context = tensors["pass1.entry.weight"].shape[1] - width
    first_hyper = tensors.get("hyper1.entry.weight")
    return PriorConfig(
        hyper_context=0 if first_hyper is None else first_hyper.shape[0],
        latent_channels=channels,
        hyper_channels=hyper,
        width=width,
        middle=tensors["synthesise_1.weight"].shape[0] // 4,
        expansion=tensors["pass0.expand0.weight"].shape[0] // width,
        blocks=sum(name.startswith("pass0.expand") and name.endswith(".weight") for name in tensors),
        context_kernel=math.isqrt(context // channels),
    )


def _prior_weights(tensors: Mapping[str, Tensor], config: PriorConfig) -> dict[str, Tensor]:
    """By the names of `PriorNetwork`."""

    def layer(name: str) -> tuple[Tensor, Tensor]:
        """Weight `[out, in * kernel**2]` and bias `[rows, out]` in the units of activations, both exact."""
        shift = tensors[f"{name}.shift"].double()
        half = torch.zeros_like(shift) if name.endswith("head") else torch.exp2(shift - 1).floor()
        bias = (tensors[f"{name}.bias"].double() - half) / (ACTIVATION_ONE * torch.exp2(shift))
        return tensors[f"{name}.weight"].double() / torch.exp2(shift)[:, None], bias

    found: dict[str, Tensor] = {}
    inputs = {1: config.hyper_channels, 2: config.middle, 3: config.width}
    for index, entering in inputs.items():
        weight, rows = layer(f"synthesise_{index}")
        found[f"synthesise_{index}.weight"] = weight.view(weight.shape[0], entering, 3, 3)
        found[f"synthesise_{index}.bias"] = rows[0]
        shared = 1 if index == 3 else 4  # outputs of one place before the shuffle share what depends on quality
        found[f"quality_{index}.values"] = _knots(rows - rows[0]).unflatten(1, (-1, shared)).mean(2)
    for i in range(PASSES - 1 if config.hyper_context else 0):
        weight, rows = layer(f"hyper{i + 1}.entry")
        found[f"hyper_passes.{i}.context.weight"] = weight.view(weight.shape[0], -1, 3, 3)
        found[f"hyper_passes.{i}.quality.values"] = _knots(rows)
        weight, rows = layer(f"hyper{i + 1}.head")
        found[f"hyper_passes.{i}.head.weight"] = weight[:, :, None, None]
        found[f"hyper_passes.{i}.head.bias"] = rows[0]
    for k in range(PASSES):
        weight, rows = layer(f"pass{k}.entry")
        context, features = weight.split([weight.shape[1] - config.width, config.width], 1)
        if k > 0:
            kernel = config.context_kernel
            found[f"passes.{k}.context.weight"] = context.reshape(config.width, -1, kernel, kernel)
        found[f"passes.{k}.features.weight"] = features[:, :, None, None]
        found[f"passes.{k}.quality.values"] = _knots(rows)
        shift = tensors[f"pass{k}.entry.shift"].double()
        found[f"passes.{k}.cell"] = tensors[f"pass{k}.cell"].double() / (ACTIVATION_ONE * torch.exp2(shift))
        names = {f"{part}.{b}": f"{part}{b}" for b in range(config.blocks) for part in ("expand", "project")}
        for name, stored in (names | {"head": "head"}).items():
            weight, rows = layer(f"pass{k}.{stored}")
            found[f"passes.{k}.{name}.weight"] = weight[:, :, None, None]
            found[f"passes.{k}.{name}.bias"] = rows[0]
    sixteenths, one = 1 << MEAN_BITS, float(1 << RATIO_BITS)
    unit = torch.exp2(-tensors["pass0.head.shift"].double()[: config.latent_channels]) / ACTIVATION_ONE
    found["mean_gain.values"] = _knots(tensors["pass0.mean_multiplier"].double() / one / unit / sixteenths).log()
    found["scale_base.values"] = _knots(tensors["table_offset"].double() / one)
    found["hyper_mean.values"] = _knots(tensors["hyper_mean"].double() / sixteenths)
    offset = tensors["hyper_offset"].double() / one if config.hyper_context else tensors["hyper_table"].double()
    found["hyper_scale.values"] = _knots(offset)
    found["hyper_input.values"] = _knots(tensors["hyper_multiplier"].double() / one * sixteenths / ACTIVATION_ONE).log()
    found["context_gain.values"] = _knots(
        tensors["context_multiplier"].double() / one * sixteenths / ACTIVATION_ONE
    ).log()
    found["hyper_gain.values"] = _knots(tensors["analyse_output"].double()).log()
    for name, value in tensors.items():
        if name.startswith(("analyse_1", "analyse_2", "analyse_3")):
            found[name] = value
    return found


def _knots(rows: Tensor) -> Tensor:
    """`[201, channels]` → the rows at the knots, `[KNOT_COUNT, channels]`."""
    return rows[:: (rows.shape[0] - 1) // (KNOT_COUNT - 1)].double()
