"""A larger model from one that has learnt already: it computes what it did before, and what is new says nothing yet.

How many channels a latent has is a bound on what it can tell of its 8x8 pixels, and so on quality at high rates. The new ones
are dead as those that `sdcodec.training.revive` finds, and it is this that gives them something to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from sdcodec.errors import TrainingError
from sdcodec.priors.passes import GROUPS
from sdcodec.training.model import TrainingModel
from sdcodec.training.restore import Restored


def grown(model: Restored, channels: int) -> Restored:
    """The model with so many latent channels and, beside its networks, direct paths for the new ones. No denoiser is kept.

    Each of the prior's channel groups grows by the same part, its old channels first. Raises TrainingError where `channels`
    is no larger multiple of the number of groups.
    """
    present = model.tiny.latent_channels
    if channels <= present or channels % GROUPS or present % GROUPS:
        raise TrainingError(
            f"grow_to = {channels}: this model has {present} channels; a larger multiple of {GROUPS} is wanted"
        )
    tiny = replace(model.tiny, latent_channels=channels, direct=True)
    prior = replace(model.prior, latent_channels=channels)
    old = torch.arange(present)
    kept = old // (present // GROUPS) * (channels // GROUPS) + old % (present // GROUPS)
    # A head's outputs are means and, after them, scales.
    places = {present: kept, 2 * present: torch.cat([kept, kept + channels])}
    new = TrainingModel(tiny, prior).state_dict()
    weights = {name: _widened(model.weights.get(name), like, places) for name, like in new.items()}
    return Restored(tiny, prior, None, weights)


def deepened(model: Restored, blocks: Mapping[str, int]) -> Restored:
    """The model with so many residual blocks in parts of its transforms; the new ones stand last, and add nothing yet.

    blocks: by the names of `TinyConfig`, such as `decoder_blocks_8`. Raises TrainingError for other names, and where there are
        more blocks already.
    """
    for name, count in blocks.items():
        present = getattr(model.tiny, name) if "_blocks_" in name and hasattr(model.tiny, name) else None
        if present is None or not isinstance(count, int) or count < present:
            known = ", ".join(key for key in vars(model.tiny) if "_blocks_" in key)
            raise TrainingError(
                f"deepen_to: {name} = {count}: {present or 'no such part'} here; numbers of {known} can grow"
            )
    tiny = replace(model.tiny, **blocks)
    new = TrainingModel(tiny, model.prior).state_dict()
    fresh = {name: value for name, value in new.items() if name not in model.weights}
    for name, value in fresh.items():
        if ".blocks_" in name and name.split(".")[-2] in (
            "second",
            "project",
        ):  # the last layer of either kind of block
            value.zero_()
    return replace(model, tiny=tiny, weights=model.weights | fresh)


def with_hyper_context(model: Restored, width: int) -> Restored:
    """The model with networks of this width that predict hyper-latents from their neighbours; they begin by saying nothing.

    Raises TrainingError where it has such networks already.
    """
    if model.prior.hyper_context:
        raise TrainingError("grow_hyper_context: this model has such networks already; leave it out")
    prior = replace(model.prior, hyper_context=width)
    new = TrainingModel(model.tiny, prior).state_dict()
    fresh = {name: value for name, value in new.items() if name.startswith("prior.hyper_passes.")}
    return replace(model, prior=prior, weights=model.weights | fresh)


def _widened(value: Tensor | None, like: Tensor, places: Mapping[int, Tensor]) -> Tensor:
    """`value` in the shape of `like`, its channels in their new places along the dimension that grew, zeros elsewhere."""
    wide = torch.zeros_like(like)
    if value is None:
        return wide
    grew = [d for d in range(value.ndim) if value.shape[d] != like.shape[d]]
    if not grew:
        return value
    (dimension,) = grew
    return wide.index_copy(dimension, places[value.shape[dimension]], value)
