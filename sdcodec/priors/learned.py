"""Learned prior in integers (docs/format.md, 4.1).

Hyper-latents, features computed from them, and four or seven context passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sdcodec.coding.tables import FrequencyTables
from sdcodec.constants import ACTIVATION_LIMIT, EXACT_LIMIT, MEAN_BITS, MEAN_LIMIT
from sdcodec.errors import BundleError
from sdcodec.priors.config import HYPER_KERNEL, PriorConfig, tensor_shapes
from sdcodec.priors.integer import (
    IntegerLayer,
    columns_of,
    multiplies_exactly,
    rectified,
    scaled,
    shuffled,
    signed,
)
from sdcodec.priors.passes import cell_order, pass_lines, pass_masks
from sdcodec.priors.protocol import SymbolSource
from sdcodec.shapes import check_shapes


class LearnedPrior:
    """The learned prior in integers; `sdcodec.training.export` makes its tensors."""

    def __init__(
        self, config: PriorConfig, tensors: Mapping[str, Tensor], tables: FrequencyTables, device: torch.device
    ) -> None:
        """Load the prior.

        Raises BundleError if tensors do not fit the configuration, or exceed the exact sums of float32.
        """
        check_shapes("prior", tensor_shapes(config), tensors)
        self.config = config
        self.tables = tables
        self.device = device
        self.channels, self.hyper_channels = config.latent_channels, config.hyper_channels
        self._layers = {
            name: _layer(tensors, name, _kernel(name, config), device)
            for name in (name.removesuffix(".shift") for name in tensors if name.endswith(".shift"))
        }
        self._constants = {
            name: tensors[name].to(device).long()
            for name in tensors
            if name in ("hyper_mean", "hyper_table") or name.endswith(("_multiplier", "_offset"))
        }
        self._cells = [tensors[f"pass{k}.cell"].to(device).float() for k in range(config.passes)]
        self._analysis = {name: tensors[name].to(device).float() for name in tensors if name.startswith("analyse")}

    @torch.no_grad()
    def hyper_latents(self, scaled_latents: Tensor, quality_index: int) -> Tensor:
        """Analyse scaled latents `[B, C, h, w]`.

        Returns hyper-latents in their own steps, float `[B, Z, h/4, w/4]`, not rounded.
        """
        a = self._analysis
        with torch.autocast(self.device.type, enabled=False):
            x = scaled_latents.float() * a["analyse_input"][quality_index][:, None, None]
            x = F.silu(F.conv2d(x, a["analyse_1.weight"], a["analyse_1.bias"], stride=2, padding=1))
            x = F.silu(F.conv2d(x, a["analyse_2.weight"], a["analyse_2.bias"], stride=2, padding=1))
            x = F.conv2d(x, a["analyse_3.weight"], a["analyse_3.bias"], padding=1)
            return x * a["analyse_output"][quality_index][:, None, None]

    @torch.no_grad()
    def walk(self, shape: tuple[int, int, int], quality_index: int, source: SymbolSource) -> Tensor:
        """Walk over the hyper-symbols first, then four or seven passes of symbols.

        Each pass sees all earlier ones. `shape` is (B, h, w) in latents, h and w multiples of 4. Returns the
        dequantised symbols in 1/16 of a quantiser step, int64 `[B, C, h, w]`.
        """
        batch, height, width = shape
        with torch.autocast(self.device.type, enabled=False):
            features = self._features(batch, height, width, quality_index, source)
            decoded = torch.zeros(batch, self.channels, height * width, dtype=torch.int64, device=self.device)
            context = torch.zeros(batch, self.channels, height, width, dtype=torch.int8, device=self.device)
            cells = torch.from_numpy(cell_order(height, width).reshape(-1)).to(self.device)
            flat_decoded, flat_context = decoded.view(batch, -1), context.view(batch, -1)
            for k in range(self.config.passes):
                where = [
                    part.to(self.device) for part in _positions(self.channels, height, width, k, self.config.passes)
                ]
                here, positions, channel, places = where
                sums = self._pass(k, features, context, cells, here, quality_index)
                direct = self._direct(k, context, here, channel, places, quality_index)
                offset = self._constants["table_offset"][quality_index]
                means, tables = self._parameters(f"pass{k}", sums, channel, places, quality_index, direct, offset)
                means = means.clamp_(-MEAN_LIMIT, MEAN_LIMIT)
                symbols = source.latents(positions, means, tables)
                values = (symbols << MEAN_BITS) + means
                flat_decoded[:, positions] = values
                multiplier = self._constants["context_multiplier"][quality_index][channel]
                flat_context[:, positions] = signed(scaled(values, multiplier))
        return decoded.view(batch, self.channels, height, width)

    def _features(self, batch: int, height: int, width: int, quality_index: int, source: SymbolSource) -> Tensor:
        """Ask for the hyper-symbols and return features `[B, width, h * w]`, int8."""
        x = self._hyper(batch, height // 4, width // 4, quality_index, source)
        for name in ("synthesise_1", "synthesise_2"):
            layer = self._layers[name]
            y = layer.shifted(columns_of(x, layer.kernel), quality_index)
            x = shuffled(rectified(y).view(batch, -1, *x.shape[2:]))
        layer = self._layers["synthesise_3"]
        y = layer.shifted(columns_of(x, layer.kernel), quality_index)
        return rectified(y.add_(x.flatten(2)))

    def _hyper(self, batch: int, rows: int, columns: int, quality_index: int, source: SymbolSource) -> Tensor:
        """Ask for the hyper-symbols, at once or in four passes like latents.

        Returns int8 activations `[B, Z, rows, columns]`.
        """
        c = self._constants
        x = torch.zeros(batch, self.hyper_channels, rows, columns, dtype=torch.int8, device=self.device)
        flat = x.view(batch, -1)
        for k in range(self.config.hyper_passes):
            where = _positions(self.hyper_channels, rows, columns, k, self.config.hyper_passes)
            _, positions, channel, places = (part.to(self.device) for part in where)
            means = c["hyper_mean"][quality_index][channel].expand(batch, -1)
            tables = c["hyper_table"][quality_index][channel].expand(batch, -1)
            if k > 0:
                sums, offset = self._hyper_sums(k, x, quality_index), c["hyper_offset"][quality_index]
                further, tables = self._parameters(f"hyper{k}", sums, channel, places, quality_index, 0, offset)
                means = means + further
            values = (source.hyper(positions, means, tables) << MEAN_BITS) + means
            flat[:, positions] = signed(scaled(values, c["hyper_multiplier"][quality_index][channel]))
        return x

    def _hyper_sums(self, k: int, x: Tensor, quality_index: int) -> Tensor:
        """Return the head's sums `[B, 2Z, rows * columns]` of pass k of the hyper-latents."""
        entry = self._layers[f"hyper{k}.entry"]
        inner = rectified(entry.shifted(columns_of(x, entry.kernel), quality_index))
        return self._layers[f"hyper{k}.head"].sums(inner, quality_index)

    def _pass(
        self, k: int, features: Tensor, context: Tensor, cells: Tensor, here: Tensor, quality_index: int
    ) -> Tensor:
        """Return the head's sums `[B, 2C, N]` of pass k at the N positions `here`."""
        entry = self._layers[f"pass{k}.entry"]
        columns = features
        if k > 0:
            columns = torch.cat([columns_of(context, self.config.context_kernel), features], 1)
        x = entry.sums(_chosen(columns, here), quality_index).add_(self._cells[k].T[:, cells[here]])
        x = rectified(entry.divided(x))
        for block in range(self.config.blocks):
            inner = rectified(self._layers[f"pass{k}.expand{block}"].shifted(x, quality_index))
            x = signed(self._layers[f"pass{k}.project{block}"].shifted(inner, quality_index).add_(x))
        return self._layers[f"pass{k}.head"].sums(x, quality_index)

    def _direct(
        self, k: int, context: Tensor, here: Tensor, channel: Tensor, places: Tensor, quality_index: int
    ) -> Tensor | int:
        """Return the addition of pass k's linear path to means, int64 `[B, M]`.

        It counts in 2**-24 of their unit; 0 without such a path.
        """
        layer = self._layers.get(f"pass{k}.direct")
        if layer is None:
            return 0
        sums = layer.sums(_chosen(columns_of(context, layer.kernel), here), quality_index)
        return sums.flatten(1)[:, places].long() * self._constants[f"pass{k}.direct_multiplier"][quality_index][channel]

    def _parameters(
        self,
        name: str,
        sums: Tensor,
        channel: Tensor,
        places: Tensor,
        quality_index: int,
        mean_offset: Tensor | int,
        table_offset: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return means and table indices of a pass's symbols, int64 `[B, M]` each.

        Means are in 1/16 of a quantiser step, without limits. `sums`: of the head of the pass called `name`; the
        offsets count in 2**-24, `table_offset` `[C]`.
        """
        flat = sums.view(sums.shape[0], 2, -1)
        c = self._constants
        mean = scaled(flat[:, 0, places], c[f"{name}.mean_multiplier"][quality_index][channel], mean_offset)
        table = scaled(flat[:, 1, places], c[f"{name}.table_multiplier"][0][channel], table_offset[channel])
        return mean, table.clamp_(0, self.tables.count - 1)


def _chosen(columns: Tensor, here: Tensor) -> Tensor:
    """Select the positions `here` of `[B, n, h * w]`; all of them need no copy."""
    return columns if len(here) == columns.shape[2] else columns[:, :, here].contiguous()


@lru_cache(maxsize=64)
def _positions(channels: int, height: int, width: int, k: int, passes: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the N positions of pass k, and the place of each of its M symbols.

    The latter are the flat index into `[C, h, w]`, ascending, the channel, and the index into `[C, N]`.
    """
    rows, columns = pass_lines(height, width, k, passes)
    here = (rows[:, None] * width + columns).reshape(-1)
    flat = np.flatnonzero(pass_masks(channels, height, width, passes)[k])
    channel, position = np.divmod(flat, height * width)
    places = channel * len(here) + np.searchsorted(here, position)
    return torch.from_numpy(here), torch.from_numpy(flat), torch.from_numpy(channel), torch.from_numpy(places)


def _kernel(name: str, config: PriorConfig) -> int:
    """Return the kernel of a layer.

    Columns of `pass....entry` are made by its caller, since features have no window.
    """
    if name.startswith("synthesise") or (name.startswith("hyper") and name.endswith("entry")):
        return HYPER_KERNEL
    return config.direct_kernel if name.endswith(".direct") else 1


def _layer(tensors: Mapping[str, Tensor], name: str, kernel: int, device: torch.device) -> IntegerLayer:
    weight = tensors[f"{name}.weight"]
    bias = tensors[f"{name}.bias"]
    largest = weight.float().abs().sum(1).max() * ACTIVATION_LIMIT + bias.abs().max()
    if largest >= EXACT_LIMIT:
        raise BundleError(f"the prior's layer {name} can exceed 2**24; it was not exported by this library")
    weight = weight.to(device)
    shift = tensors[f"{name}.shift"].to(device)
    return IntegerLayer(weight, bias.to(device).float(), shift, kernel, multiplies_exactly(weight))
