"""Network of one pass of the learned prior (docs/format.md, 4.1).

Positions form classes by their place in the lattice: which symbols around a position are coded before pass k is the
same for all positions of a class. The others are zero, so their weights are left out, half of them on average.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdcodec.constants import MEAN_LIMIT
from sdcodec.priors.config import PriorConfig
from sdcodec.priors.integer import IntegerLayer, integer_layer, rectified, scaled, signed
from sdcodec.priors.passes import PASSES_IN_PARTS, cell_order, pass_masks


@dataclass(frozen=True)
class _Slice:
    """Context under one place of a window, of one phase, from a row and column on."""

    phase: tuple[int, int]
    row: int
    column: int
    first: int
    last: int


@dataclass(frozen=True)
class _Inputs:
    """Inputs of a layer: slices of the context, and columns of its weight."""

    slices: tuple[_Slice, ...]
    columns: Tensor

    def of(self, phases: Mapping[tuple[int, int], Tensor], rows: int, columns: int) -> list[Tensor]:
        """Return them as `[B, channels, rows, columns]` each."""
        return [
            phases[own.phase][:, own.first : own.last, own.row : own.row + rows, own.column : own.column + columns]
            for own in self.slices
        ]


@dataclass(frozen=True)
class _Class:
    """Positions at `row::period, column::period`, with channels `[first, last)`."""

    row: int
    column: int
    first: int
    last: int
    inputs: _Inputs
    entry: IntegerLayer
    head: IntegerLayer
    direct_inputs: _Inputs
    direct: IntegerLayer | None

    @property
    def channels(self) -> slice:
        return slice(self.first, self.last)


class PassNetwork:
    """Pass k of the learned prior."""

    def __init__(
        self,
        k: int,
        config: PriorConfig,
        tensors: Mapping[str, Tensor],
        constants: Mapping[str, Tensor],
        table_count: int,
        device: torch.device,
    ) -> None:
        """Load the pass.

        tensors: of the prior, by the names of docs/format.md.
        constants: those of them that depend on quality, int64 on the device.
        """
        self.channels, self._constants, self._k, self._table_count = config.latent_channels, constants, k, table_count
        self._reach = context_reach(config)
        self._period = 4 if config.passes == PASSES_IN_PARTS else 2
        self._blocks = [
            [integer_layer(tensors, f"pass{k}.{part}{block}", device) for part in ("expand", "project")]
            for block in range(config.blocks)
        ]
        self._classes = list(self._load(config, tensors, device))

    def _load(self, config: PriorConfig, tensors: Mapping[str, Tensor], device: torch.device) -> list[_Class]:
        k, period, channels = self._k, self._period, self.channels
        masks = pass_masks(channels, period, period, config.passes)
        when: NDArray[np.int64] = masks.argmax(0)  # the pass of every symbol
        order = cell_order(period, period)
        around = channels * config.context_kernel**2 if k else 0
        features = torch.arange(around, around + config.width)
        classes = []
        for row, column in np.ndindex(period, period):
            coded = np.flatnonzero(masks[k, :, row, column])
            if not len(coded):
                continue
            first, last = int(coded[0]), int(coded[-1]) + 1
            inputs = self._inputs(when, config.context_kernel if k else 0, row, column)
            direct = self._inputs(when, config.direct_kernel if k else 0, row, column)
            own, both = torch.arange(first, last), [torch.arange(first, last) + half for half in (0, channels)]
            entering = torch.cat([inputs.columns, features])
            cell = tensors[f"pass{k}.cell"][order[row, column]]
            entry = integer_layer(tensors, f"pass{k}.entry", device, columns=entering, further=cell)
            head = integer_layer(tensors, f"pass{k}.head", device, rows=torch.cat(both))
            path = None
            if len(direct.columns):
                path = integer_layer(tensors, f"pass{k}.direct", device, rows=own, columns=direct.columns)
            classes.append(_Class(row, column, first, last, inputs, entry, head, direct, path))
        return classes

    def _inputs(self, when: NDArray[np.int64], kernel: int, row: int, column: int) -> _Inputs:
        """Return the inputs of a kernel at a position that are coded before the pass."""
        period, slices, columns = self._period, [], []
        corner = self._reach - kernel // 2  # of the kernel, in the context with its margin
        for i, j in np.ndindex(kernel, kernel):
            known = when[:, (row + i - kernel // 2) % period, (column + j - kernel // 2) % period] < self._k
            edges = np.flatnonzero(np.diff(np.concatenate([[False], known, [False]]).astype(np.int8)))
            at = row + corner + i, column + corner + j
            for first, last in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
                phase = at[0] % period, at[1] % period
                slices.append(_Slice(phase, at[0] // period, at[1] // period, first, last))
                columns.append((torch.arange(first, last) * kernel + i) * kernel + j)
        return _Inputs(tuple(slices), torch.cat(columns) if columns else torch.arange(0))

    def predicted(self, features: Tensor, context: Tensor, quality_index: int) -> tuple[Tensor, Tensor]:
        """Predict the symbols of the pass.

        features: int8 `[B, width, h, w]`.
        context: int8 `[B, C, h + 2r, w + 2r]`, with r the reach.

        Returns means in 1/16 of a quantiser step and table indices, int64 `[B, C, h, w]` both, zero where the pass has
        no symbols.
        """
        batch, _, height, width = features.shape
        means = torch.zeros(batch, self.channels, height, width, dtype=torch.int64, device=features.device)
        tables, phases = torch.zeros_like(means), self._phases(context)
        for own in self._classes:
            place = _place(own, self._period)
            rows, columns = means[0, 0, *place].shape
            entering = _joined([*own.inputs.of(phases, rows, columns), features[:, :, *place]])
            direct = _joined(own.direct_inputs.of(phases, rows, columns)) if own.direct else None
            sums = self._sums(own, entering, quality_index)
            shape = batch, own.last - own.first, rows, columns
            means[:, own.channels, *place] = self._means(own, sums, direct, quality_index).view(shape)
            tables[:, own.channels, *place] = self._tables(own, sums, quality_index).view(shape)
        return means, tables

    def corrected(
        self, means: Tensor, differing: Tensor, features: Tensor, context: Tensor, quality_index: int
    ) -> Tensor:
        """Return `means` with those of other inputs where `differing`.

        differing: bool `[B, h, w]`; the others as `predicted` has them.
        """
        means, phases = means.clone(), self._phases(context)
        for own in self._classes:
            place = _place(own, self._period)
            here = differing[:, *place]
            rows, columns = here.shape[1:]
            if not here.any():
                continue
            here = _in_runs(here)
            entering = _joined([*own.inputs.of(phases, rows, columns), features[:, :, *place]], here)
            direct = _joined(own.direct_inputs.of(phases, rows, columns), here) if own.direct else None
            sums = self._sums(own, entering, quality_index)
            found = self._means(own, sums, direct, quality_index)[0].T
            means[:, own.channels, *place].permute(0, 2, 3, 1)[here] = found
        return means

    def _phases(self, context: Tensor) -> dict[tuple[int, int], Tensor]:
        """Return the context at every phase of the period, each in one piece."""
        if not self._k:
            return {}
        period = self._period
        return {(i, j): context[:, :, i::period, j::period].contiguous() for i, j in np.ndindex(period, period)}

    def _sums(self, own: _Class, entering: Tensor, quality_index: int) -> Tensor:
        """Return the head's sums `[B, 2 * channels, N]` for inputs `[B, n, N]`."""
        x = rectified(own.entry.shifted(entering, quality_index))
        for expand, project in self._blocks:
            inner = rectified(expand.shifted(x, quality_index))
            x = signed(project.shifted(inner, quality_index).add_(x))
        return own.head.sums(x, quality_index)

    def _means(self, own: _Class, sums: Tensor, direct: Tensor | None, quality_index: int) -> Tensor:
        """Return means `[B, channels, N]`; `direct` are inputs of the linear path."""
        multiplier = self._constants[f"pass{self._k}.mean_multiplier"][quality_index, own.channels, None]
        offset: Tensor | int = 0
        if own.direct and direct is not None:
            unit = self._constants[f"pass{self._k}.direct_multiplier"][quality_index, own.channels, None]
            offset = own.direct.sums(direct, quality_index).long() * unit
        return scaled(sums[:, : own.last - own.first], multiplier, offset).clamp_(-MEAN_LIMIT, MEAN_LIMIT)

    def _tables(self, own: _Class, sums: Tensor, quality_index: int) -> Tensor:
        """Return table indices `[B, channels, N]`."""
        multiplier = self._constants[f"pass{self._k}.table_multiplier"][0, own.channels, None]
        offset = self._constants["table_offset"][quality_index, own.channels, None]
        return scaled(sums[:, own.last - own.first :], multiplier, offset).clamp_(0, self._table_count - 1)


def context_reach(config: PriorConfig) -> int:
    """Return how many latents around a position a pass sees."""
    return max(config.context_kernel, config.direct_kernel) // 2


def _joined(parts: list[Tensor], here: Tensor | None = None) -> Tensor:
    """Join inputs `[B, n, rows, columns]` to `[B, all n, N]`.

    With places `here`, made by `_in_runs`, to `[1, all n, N]`.
    """
    joined = torch.cat(parts, 1).flatten(2)
    if here is None:
        return joined
    run = _run(here)
    places = [chosen.nonzero()[:, 0] for chosen in here.flatten(1)[:, ::run]]
    runs = joined.view(_WORDS[run])
    return torch.cat([own.index_select(1, at) for own, at in zip(runs, places, strict=True)], 1)[None].view(torch.int8)


# Places are selected in runs along a row, each as one number of as many bytes.
_WORDS = {4: torch.int32, 2: torch.int16, 1: torch.int8}


def _run(here: Tensor) -> int:
    return next(run for run in _WORDS if here.shape[-1] % run == 0)


def _in_runs(here: Tensor) -> Tensor:
    """Return places `[B, rows, columns]` and the others of their runs."""
    run = _run(here)
    return here.view(*here.shape[:-1], -1, run).any(-1).repeat_interleave(run, -1)


def _place(own: _Class, period: int) -> tuple[slice, slice]:
    return slice(own.row, None, period), slice(own.column, None, period)
