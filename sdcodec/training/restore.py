"""Restoring of trainable weights from a bundle: the inverse of the export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sdcodec.autoencoders.conv import ConvConfig
from sdcodec.bundles.loading import configured, prior_parts, read_tensors
from sdcodec.bundles.store import Bundle
from sdcodec.constants import ACTIVATION_ONE, MEAN_ONE, RATIO_ONE
from sdcodec.errors import TrainingError
from sdcodec.priors.config import HYPER_KERNEL, PriorConfig
from sdcodec.training.knots import KNOT_COUNT


@dataclass(frozen=True)
class Restored:
    """Configurations of a bundle, and its weights by the names of `TrainingModel`."""

    autoencoder: ConvConfig
    prior: PriorConfig
    weights: dict[str, Tensor]


def restore(bundle: Bundle) -> Restored:
    """Return the weights that a bundle was exported from, to within its rounding.

    Weights of the prior return as they are, in 8 bits; values that depend on quality are read at the knots, so that a
    row between them may be a unit off when it is exported again; the rest is float16. Raises TrainingError for a
    bundle that was not made by `sdcodec train`.
    """
    if bundle.autoencoder != "conv" or bundle.priors[0].kind != "learned":
        raise TrainingError(f"{bundle.folder}: only bundles that `sdcodec train` made can be trained further")
    own = {name: value for name, value in bundle.configuration.items() if name != "factor"}
    autoencoder_config = configured("autoencoder", ConvConfig, own)
    config = configured("prior", PriorConfig, bundle.priors[0].configuration)
    if config.direct_kernel:
        raise TrainingError(
            f"{bundle.folder}: its first prior was made by `models fit`, which cannot be trained further"
        )
    autoencoder = read_tensors(bundle.folder / bundle.autoencoder_file)
    stored = read_tensors(bundle.folder / bundle.priors[0].file)
    tensors, _ = prior_parts(stored)
    weights = {
        name: value.float()
        for name, value in autoencoder.items()
        if name.startswith(("encoder.", "decoder.", "vivid."))
    }
    weights["decoder_bias.values"] = _knots(autoencoder["decoder_bias"])
    weights["gain.values"] = _knots(stored["gain"]).log()
    weights["inverse_gain.values"] = _knots(stored["inverse_gain"]).log()
    weights |= {f"prior.{name}": value for name, value in _prior_weights(tensors, config).items()}
    return Restored(autoencoder_config, config, {name: value.float() for name, value in weights.items()})


def _prior_weights(tensors: Mapping[str, Tensor], config: PriorConfig) -> dict[str, Tensor]:
    """Return the weights by the names of `PriorNetwork`."""

    def layer(name: str) -> tuple[Tensor, Tensor]:
        """Return weight `[out, in * kernel**2]` and bias `[rows, out]`, both exact.

        They are in units of activations.
        """
        shift = tensors[f"{name}.shift"].double()
        half = torch.zeros_like(shift) if name.endswith("head") else torch.exp2(shift - 1).floor()
        bias = (tensors[f"{name}.bias"].double() - half) / (ACTIVATION_ONE * torch.exp2(shift))
        return tensors[f"{name}.weight"].double() / torch.exp2(shift)[:, None], bias

    found: dict[str, Tensor] = {}
    inputs = {1: config.hyper_channels, 2: config.middle, 3: config.width}
    for index, entering in inputs.items():
        weight, rows = layer(f"synthesise_{index}")
        found[f"synthesise_{index}.weight"] = weight.view(weight.shape[0], entering, HYPER_KERNEL, HYPER_KERNEL)
        found[f"synthesise_{index}.bias"] = rows[0]
        shared = 1 if index == 3 else 4  # outputs of one place before the shuffle share what depends on quality
        found[f"quality_{index}.values"] = _knots(rows - rows[0]).unflatten(1, (-1, shared)).mean(2)
    for i in range(config.hyper_passes - 1):
        weight, rows = layer(f"hyper{i + 1}.entry")
        found[f"hyper_passes.{i}.context.weight"] = weight.view(weight.shape[0], -1, HYPER_KERNEL, HYPER_KERNEL)
        found[f"hyper_passes.{i}.quality.values"] = _knots(rows)
        weight, rows = layer(f"hyper{i + 1}.head")
        found[f"hyper_passes.{i}.head.weight"] = weight[:, :, None, None]
        found[f"hyper_passes.{i}.head.bias"] = rows[0]
    for k in range(config.passes):
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
    sixteenths, one = MEAN_ONE, float(RATIO_ONE)
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
    """Return the rows of `[201, channels]` at the knots."""
    return rows[:: (rows.shape[0] - 1) // (KNOT_COUNT - 1)].double()
