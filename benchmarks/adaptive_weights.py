"""Fit the weights of the adaptive prior by least squares, lattice by lattice.

They are fitted to latents of photographs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sdcodec.constants import MEAN_BITS
from sdcodec.priors.adaptive import FINE_BITS, LATTICE_COUNT, SIZE_BITS, WEIGHT_BITS, Surroundings, surroundings
from sdcodec.priors.lattices import Lattice, lattice

REWEIGHTINGS = 4
SMALLEST_SIZE = 0.07  # of a quantiser step: without it, symbols that hardly differ from their means would rule the fit


def fit_weights(groups: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Fit the weights of one regime to scaled latents, `[N, C, h, w]` per group.

    Returns int64 `[7, 3]` of means and `[7, 5]` of sizes. Groups may have different numbers of channels. The fit goes
    through the passes as the prior does, so that each lattice's weights are fitted to its neighbours as they will be
    decoded. Means minimise the squared error, weighted by the inverse of the expected size; sizes the relative error
    of the expected absolute residual (Poisson-like: iteratively reweighted least squares), and are never negative.
    """
    values = [torch.zeros(group.shape, dtype=torch.int64) for group in groups]
    sizes = [torch.zeros_like(own) for own in values]
    mean_weights = torch.zeros(LATTICE_COUNT, 3, dtype=torch.int64)
    size_weights = torch.zeros(LATTICE_COUNT, 5, dtype=torch.int64)
    centred = [group - group.mean((2, 3), keepdim=True).round() for group in groups]
    for index in range(LATTICE_COUNT):
        places = [lattice(index, group.shape[2], group.shape[3], torch.device("cpu")) for group in groups]
        seen = [surroundings(v, s, place) for v, s, place in zip(values, sizes, places, strict=True)]
        truth = torch.cat([place.at(group).flatten() for place, group in zip(places, centred, strict=True)])
        near, far = _joined(seen, ("beside", "over", "across")), _joined(seen, ("own", "every", "level", "bend"))
        near = near / (1 << MEAN_BITS)
        far = torch.cat([torch.ones(1, far.shape[1]), far / (1 << FINE_BITS)])
        trust = torch.ones_like(truth)
        for _ in range(2):
            mean_weights[index] = (_solved(near, truth, trust) * (1 << WEIGHT_BITS)).round().long()
            residual = truth - mean_weights[index].float() @ near / (1 << WEIGHT_BITS)
            size = _sizes(far, residual.abs())
            trust = (size @ far).clamp(min=SMALLEST_SIZE) ** -2
        size_weights[index] = (size * (1 << SIZE_BITS)).round().long()
        _advance(values, sizes, centred, seen, places, mean_weights[index])
    return mean_weights, size_weights


def _joined(seen: Sequence[Surroundings], names: tuple[str, ...]) -> Tensor:
    """Return the surroundings `names` at all positions, float32 `[names, positions]`."""
    columns = []
    for own in seen:
        shape = own.beside.shape
        columns.append(torch.stack([getattr(own, name).expand(shape).flatten().float() for name in names]))
    return torch.cat(columns, 1)


def _solved(x: Tensor, y: Tensor, trust: Tensor) -> Tensor:
    """Solve weighted least squares over the rows of `x` that are not all zero.

    The other rows get zero.
    """
    chosen = x.abs().sum(1) > 0
    result = torch.zeros(len(x), dtype=torch.float64)
    if chosen.any():
        own = x[chosen].double()
        weighted = own * trust
        gram = weighted @ own.T
        gram.diagonal().add_(1e-6 * gram.diagonal().mean())
        result[chosen] = torch.linalg.solve(gram, weighted @ y.double())
    return result.float()


def _sizes(x: Tensor, residual: Tensor) -> Tensor:
    """Return non-negative weights with which `x` predicts absolute residuals."""
    active = torch.ones(len(x), dtype=torch.bool)
    while True:
        trust = torch.ones_like(residual)
        for _ in range(REWEIGHTINGS):
            weights = _solved(x * active[:, None], residual, trust)
            trust = (weights @ x).clamp(min=SMALLEST_SIZE) ** -2
        if not (weights < 0).any():
            return weights
        active &= weights >= 0


def _advance(
    values: list[Tensor],
    sizes: list[Tensor],
    centred: Sequence[Tensor],
    seen: Sequence[Surroundings],
    places: Sequence[Lattice],
    weights: Tensor,
) -> None:
    """Quantise a lattice in each group as the prior does, in place."""
    for v, s, truth, own, place in zip(values, sizes, centred, seen, places, strict=True):
        mean = weights[0] * own.beside + weights[1] * own.over + weights[2] * own.across
        mean = (mean + (1 << (WEIGHT_BITS - 1))) >> WEIGHT_BITS
        symbols = (place.at(truth) - mean.float() / (1 << MEAN_BITS)).round().long()
        rows, columns = place.rows[:, None], place.columns[None, :]
        v[:, :, rows, columns] = (symbols << MEAN_BITS) + mean
        s[:, :, rows, columns] = symbols.abs()
