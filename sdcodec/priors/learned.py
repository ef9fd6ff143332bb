"""The learned prior in integers: hyper-latents, features from them, and four or seven context passes (docs/format.md, 4.1)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sdcodec.coding.tables import FrequencyTables
from sdcodec.errors import BundleError
from sdcodec.priors.integer import (
    MEAN_BITS,
    MEAN_LIMIT,
    IntegerLayer,
    columns_of,
    multiplies_exactly,
    rectified,
    scaled,
    shuffled,
    signed,
)
from sdcodec.priors.passes import PASSES, PASSES_IN_PARTS, cell_order, pass_lines, pass_masks
from sdcodec.priors.protocol import SymbolSource


class LearnedPrior:
    """Built from the tensors of a bundle (see `sdcodec.training.export`, which writes them)."""

    def __init__(self, tensors: Mapping[str, Tensor], tables: FrequencyTables, device: torch.device) -> None:
        """Raises BundleError where a tensor is missing or exceeds what float32 sums exactly."""
        self.tables = tables
        self.device = device
        try:
            self._layers = {name: _layer(tensors, name, device) for name in _layer_names(tensors)}
            self._passes = PASSES_IN_PARTS if f"pass{PASSES}.entry" in self._layers else PASSES
            self._hyper_passes = PASSES if "hyper1.entry" in self._layers else 1
            names = _constants(self._layers, self._passes, self._hyper_passes)
            self._constants = {name: tensors[name].to(device).long() for name in names}
            self._cells = [tensors[f"pass{k}.cell"].to(device).float() for k in range(self._passes)]
            self._analysis = {name: tensors[name].to(device).float() for name in tensors if name.startswith("analyse")}
        except KeyError as error:
            raise BundleError(
                f"the prior lacks the tensor {error}; the bundle is incomplete, install it again"
            ) from error
        self.channels = self._constants["context_multiplier"].shape[1]
        self.hyper_channels = self._constants["hyper_multiplier"].shape[1]
        self._blocks = sum(name.startswith("pass0.expand") for name in self._layers)

    @torch.no_grad()
    def hyper_latents(self, steps: Tensor, half_steps: int) -> Tensor:
        """Latents in steps `[B, C, h, w]` → hyper-latents in steps `[B, Z, h/4, w/4]`, float, not rounded."""
        a = self._analysis
        with torch.autocast(self.device.type, enabled=False):
            x = steps.float() * a["analyse_input"][half_steps][:, None, None]
            x = F.silu(F.conv2d(x, a["analyse_1.weight"], a["analyse_1.bias"], stride=2, padding=1))
            x = F.silu(F.conv2d(x, a["analyse_2.weight"], a["analyse_2.bias"], stride=2, padding=1))
            x = F.conv2d(x, a["analyse_3.weight"], a["analyse_3.bias"], padding=1)
            return x * a["analyse_output"][half_steps][:, None, None]

    @torch.no_grad()
    def walk(self, shape: tuple[int, int, int], half_steps: int, source: SymbolSource) -> Tensor:
        """Hyper-symbols first, then four or seven passes of symbols; each pass sees all that came before.

        `shape` is (B, h, w) in latents, h and w multiples of 4. Returns the dequantised symbols in 1/16 of a step,
        int64 `[B, C, h, w]`.
        """
        batch, height, width = shape
        with torch.autocast(self.device.type, enabled=False):
            features = self._features(batch, height, width, half_steps, source)
            decoded = torch.zeros(batch, self.channels, height * width, dtype=torch.int64, device=self.device)
            context = torch.zeros(batch, self.channels, height, width, dtype=torch.int8, device=self.device)
            cells = torch.from_numpy(cell_order(height, width).reshape(-1)).to(self.device)
            flat_decoded, flat_context = decoded.view(batch, -1), context.view(batch, -1)
            for k in range(self._passes):
                where = [part.to(self.device) for part in _positions(self.channels, height, width, k, self._passes)]
                here, positions, channel, places = where
                sums = self._pass(k, features, context, cells, here, half_steps)
                direct = self._direct(k, context, here, channel, places, half_steps)
                offset = self._constants["table_offset"][half_steps]
                means, tables = self._parameters(f"pass{k}", sums, channel, places, half_steps, direct, offset)
                means = means.clamp_(-MEAN_LIMIT, MEAN_LIMIT)
                symbols = source.latents(positions, means, tables)
                values = (symbols << MEAN_BITS) + means
                flat_decoded[:, positions] = values
                multiplier = self._constants["context_multiplier"][half_steps][channel]
                flat_context[:, positions] = signed(scaled(values, multiplier))
        return decoded.view(batch, self.channels, height, width)

    def _features(self, batch: int, height: int, width: int, half_steps: int, source: SymbolSource) -> Tensor:
        """Hyper-symbols from the source → features `[B, width, h * w]`, int8 activations."""
        x = self._hyper(batch, height // 4, width // 4, half_steps, source)
        for name in ("synthesise_1", "synthesise_2"):
            layer = self._layers[name]
            y = layer.shifted(columns_of(x, layer.kernel), half_steps)
            x = shuffled(rectified(y).view(batch, -1, *x.shape[2:]))
        layer = self._layers["synthesise_3"]
        y = layer.shifted(columns_of(x, layer.kernel), half_steps)
        return rectified(y.add_(x.flatten(2)))

    def _hyper(self, batch: int, rows: int, columns: int, half_steps: int, source: SymbolSource) -> Tensor:
        """Hyper-symbols from the source → int8 activations `[B, Z, rows, columns]`: at once, or in four passes as latents are."""
        c = self._constants
        x = torch.zeros(batch, self.hyper_channels, rows, columns, dtype=torch.int8, device=self.device)
        flat = x.view(batch, -1)
        for k in range(self._hyper_passes):
            where = _positions(self.hyper_channels, rows, columns, k, self._hyper_passes)
            _, positions, channel, places = (part.to(self.device) for part in where)
            means = c["hyper_mean"][half_steps][channel].expand(batch, -1)
            tables = c["hyper_table"][half_steps][channel].expand(batch, -1)
            if k > 0:
                sums, offset = self._hyper_sums(k, x, half_steps), c["hyper_offset"][half_steps]
                further, tables = self._parameters(f"hyper{k}", sums, channel, places, half_steps, 0, offset)
                means = means + further
            values = (source.hyper(positions, means, tables) << MEAN_BITS) + means
            flat[:, positions] = signed(scaled(values, c["hyper_multiplier"][half_steps][channel]))
        return x

    def _hyper_sums(self, k: int, x: Tensor, half_steps: int) -> Tensor:
        """What pass k of hyper-latents takes from those decoded before: the sums of its head, `[B, 2Z, rows * columns]`."""
        entry = self._layers[f"hyper{k}.entry"]
        inner = rectified(entry.shifted(columns_of(x, entry.kernel), half_steps))
        return self._layers[f"hyper{k}.head"].sums(inner, half_steps)

    def _pass(self, k: int, features: Tensor, context: Tensor, cells: Tensor, here: Tensor, half_steps: int) -> Tensor:
        """The head's sums `[B, 2C, N]` of pass k at the N positions `here`."""
        entry = self._layers[f"pass{k}.entry"]
        columns = features
        if k > 0:
            columns = torch.cat([columns_of(context, self._context_kernel(entry, features)), features], 1)
        x = entry.sums(_chosen(columns, here), half_steps).add_(self._cells[k].T[:, cells[here]])
        x = rectified(entry.divided(x))
        for block in range(self._blocks):
            inner = rectified(self._layers[f"pass{k}.expand{block}"].shifted(x, half_steps))
            x = signed(self._layers[f"pass{k}.project{block}"].shifted(inner, half_steps).add_(x))
        return self._layers[f"pass{k}.head"].sums(x, half_steps)

    def _context_kernel(self, entry: IntegerLayer, features: Tensor) -> int:
        return int(((entry.weight.shape[1] - features.shape[1]) // self.channels) ** 0.5)

    def _direct(
        self, k: int, context: Tensor, here: Tensor, channel: Tensor, places: Tensor, half_steps: int
    ) -> Tensor | int:
        """What pass k's linear path from context adds to means, in 2**-24 of their unit, int64 `[B, M]`; 0: there is none."""
        layer = self._layers.get(f"pass{k}.direct")
        if layer is None:
            return 0
        sums = layer.sums(_chosen(columns_of(context, layer.kernel), here), half_steps)
        return sums.flatten(1)[:, places].long() * self._constants[f"pass{k}.direct_multiplier"][half_steps][channel]

    def _parameters(
        self,
        name: str,
        sums: Tensor,
        channel: Tensor,
        places: Tensor,
        half_steps: int,
        mean_offset: Tensor | int,
        table_offset: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Means in 1/16 of a step, without limits, and table indices of a pass's symbols, int64 `[B, M]` each.

        `sums`: of the head of the pass called `name`; the offsets count in 2**-24, `table_offset` `[C]`.
        """
        flat = sums.view(sums.shape[0], 2, -1)
        c = self._constants
        mean = scaled(flat[:, 0, places], c[f"{name}.mean_multiplier"][half_steps][channel], mean_offset)
        table = scaled(flat[:, 1, places], c[f"{name}.table_multiplier"][0][channel], table_offset[channel])
        return mean, table.clamp_(0, self.tables.count - 1)


def _constants(layers: Mapping[str, IntegerLayer], passes: int, hyper_passes: int) -> list[str]:
    """The names of the tensors that belong to no layer."""
    names = ["hyper_mean", "hyper_table", "hyper_multiplier", "context_multiplier", "table_offset"]
    names += [f"pass{k}.{what}_multiplier" for k in range(passes) for what in ("mean", "table")]
    if hyper_passes > 1:
        names += ["hyper_offset"]
    names += [f"hyper{k}.{what}_multiplier" for k in range(1, hyper_passes) for what in ("mean", "table")]
    return names + [f"{name}_multiplier" for name in layers if name.endswith(".direct")]


def _chosen(columns: Tensor, here: Tensor) -> Tensor:
    """`[B, n, h * w]` → the positions `here`; all of them, in order, need no copy."""
    return columns if len(here) == columns.shape[2] else columns[:, :, here].contiguous()


@lru_cache(maxsize=64)
def _positions(channels: int, height: int, width: int, k: int, passes: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where pass k codes: flat positions in `[h, w]` with any symbol (N of them), and for each of its symbols the index
    into `[C, h, w]`, ascending, its channel, and its index into `[C, N]`.
    """
    rows, columns = pass_lines(height, width, k, passes)
    here = (rows[:, None] * width + columns).reshape(-1)
    flat = np.flatnonzero(pass_masks(channels, height, width, passes)[k])
    channel, position = np.divmod(flat, height * width)
    places = channel * len(here) + np.searchsorted(here, position)
    return torch.from_numpy(here), torch.from_numpy(flat), torch.from_numpy(channel), torch.from_numpy(places)


def _layer_names(tensors: Mapping[str, Tensor]) -> list[str]:
    return [name.removesuffix(".shift") for name in tensors if name.endswith(".shift")]


def _layer(tensors: Mapping[str, Tensor], name: str, device: torch.device) -> IntegerLayer:
    weight = tensors[f"{name}.weight"]
    bias = tensors[f"{name}.bias"]
    largest = weight.float().abs().sum(1).max() * 127 + bias.abs().max()
    if largest >= 1 << 24:
        raise BundleError(f"the prior's layer {name} can exceed 2**24; it was not exported by this library")
    # Contexts of `entry` are made into columns by whoever calls it, together with features that have no window.
    kernel = 3 if name.startswith("synthesise") or (name.startswith("hyper") and name.endswith("entry")) else 1
    if name.endswith(".direct"):
        kernel = math.isqrt(weight.shape[1] // weight.shape[0])
    weight = weight.to(device)
    shift = tensors[f"{name}.shift"].to(device)
    return IntegerLayer(weight, bias.to(device).float(), shift, kernel, multiplies_exactly(weight))
