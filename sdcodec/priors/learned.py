"""Learned prior in integers (docs/format.md, 4.1).

Hyper-latents, features computed from them, and four or seven context passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sdcodec import tiling
from sdcodec.coding.tables import FrequencyTables
from sdcodec.constants import BLOCK_LATENTS, MEAN_BITS
from sdcodec.priors.blocks import Block, block_batches, cut, paste
from sdcodec.priors.config import HYPER_KERNEL, PriorConfig, tensor_shapes
from sdcodec.priors.integer import columns_of, integer_layer, rectified, scaled, shuffled, signed
from sdcodec.priors.pass_network import PassNetwork, context_reach
from sdcodec.priors.passes import pass_masks
from sdcodec.priors.protocol import SymbolSource
from sdcodec.priors.tiles import Tile, Whole
from sdcodec.shapes import check_shapes

HYPER_UNIT = 4  # latents along a side for one hyper-latent
FEATURES_REACH = 2  # hyper-latents around one that its features see: 1 + 1/2 + 1/4
BAND = 16  # rows of hyper-latents whose features are computed at once


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
            name: integer_layer(tensors, name, device, kernel=1 if name.endswith("head") else HYPER_KERNEL)
            for name in (name.removesuffix(".shift") for name in tensors if name.endswith(".shift"))
            if not name.startswith("pass")
        }
        self._constants = {
            name: tensors[name].to(device).long()
            for name in tensors
            if name in ("hyper_mean", "hyper_table") or name.endswith(("_multiplier", "_offset"))
        }
        self._passes = [
            PassNetwork(k, config, tensors, self._constants, tables.count, device) for k in range(config.passes)
        ]
        self._analysis = {name: tensors[name].to(device).float() for name in tensors if name.startswith("analyse")}

    @torch.no_grad()
    def hyper_latents(self, scaled_latents: Tensor, quality_index: int) -> list[Tensor]:
        """Analyse scaled latents `[B, C, h, w]`.

        Returns hyper-latents in their own steps, not rounded: for each block in raster order float `[B, Z * h/4 * w/4]`.
        """
        a = self._analysis
        with torch.autocast(self.device.type, enabled=False):
            x = scaled_latents.float() * a["analyse_input"][quality_index][:, None, None]
            x = F.silu(F.conv2d(x, a["analyse_1.weight"], a["analyse_1.bias"], stride=2, padding=1))
            x = F.silu(F.conv2d(x, a["analyse_2.weight"], a["analyse_2.bias"], stride=2, padding=1))
            x = F.conv2d(x, a["analyse_3.weight"], a["analyse_3.bias"], padding=1)
            x = x * a["analyse_output"][quality_index][:, None, None]
        places = tiling.blocks(x.shape[2], x.shape[3], BLOCK_LATENTS // HYPER_UNIT)
        return [x[:, :, rows, columns].flatten(1) for rows, columns in places]

    @torch.no_grad()
    def walk(self, shape: tuple[int, int, int], quality_index: int, source: SymbolSource) -> Tensor:
        """Walk over hyper-symbols first, then four or seven passes of symbols.

        See Prior. Each pass sees all earlier ones: those of the block for its tables, those of the whole grid for its means.
        """
        with torch.autocast(self.device.type, enabled=False):
            hyper = [(blocks, self._hyper(blocks, quality_index, source)) for blocks in block_batches(*shape)]
            tiles = [self._tile(blocks, own, quality_index) for blocks, own in hyper]
            alone = shape[1:] == tiles[0].shape
            whole = None if alone else self._whole(shape, hyper, quality_index)
            for k in range(self.config.passes):
                for tile in tiles:
                    self._code(k, tile, whole, quality_index, source)
                for tile in tiles:  # a pass sees nothing of itself
                    tile.end_pass(whole)
            values = torch.empty(shape[0], self.channels, *shape[1:], dtype=torch.int32, device=self.device)
            for tile in tiles:
                paste(values, tile.blocks, tile.values)
        return values

    def _tile(self, blocks: Sequence[Block], hyper: Tensor, quality_index: int) -> Tile:
        return Tile.empty(blocks, self._features(hyper, quality_index), self.channels, context_reach(self.config))

    def _whole(
        self, shape: tuple[int, int, int], hyper: Sequence[tuple[Sequence[Block], Tensor]], quality_index: int
    ) -> Whole:
        """Compute features of whole grids from the hyper-latents of all blocks."""
        items, height, width = shape
        plane = hyper[0][1].new_zeros(items, self.hyper_channels, height // HYPER_UNIT, width // HYPER_UNIT)
        for blocks, own in hyper:
            paste(plane, blocks, own, HYPER_UNIT)
        return Whole.empty(self._features_of_grid(plane, quality_index), self.channels, context_reach(self.config))

    def _code(self, k: int, tile: Tile, whole: Whole | None, quality_index: int, source: SymbolSource) -> None:
        """Ask for the symbols of pass k of some blocks."""
        network = self._passes[k]
        own_means, tables = network.predicted(tile.features, tile.context, quality_index)
        means = own_means
        if whole is not None:
            context, features = whole.context_of(tile.blocks), cut(whole.features, tile.blocks)
            differing = tile.differing(features, context)
            means = network.corrected(own_means, differing, features, context, quality_index)
        where = _positions(self.channels, *tile.shape, k, self.config.passes)
        positions, channel = (part.to(self.device) for part in where)
        own_means, means, tables = (plane.flatten(1).index_select(1, positions) for plane in (own_means, means, tables))
        symbols = source.latents(tile.blocks, positions, means, tables) << MEAN_BITS
        multiplier = self._constants["context_multiplier"][quality_index][channel]
        values = symbols + means
        context = signed(scaled(values, multiplier))
        own_context = context if whole is None else signed(scaled(symbols + own_means, multiplier))
        tile.take(positions, values, own_context, context)

    def _hyper(self, blocks: Sequence[Block], quality_index: int, source: SymbolSource) -> Tensor:
        """Ask for the hyper-symbols of blocks, at once or in four passes like latents.

        Returns int8 activations `[B, Z, h/4, w/4]`.
        """
        c, batch = self._constants, len(blocks)
        rows, columns = (side // HYPER_UNIT for side in blocks[0].shape)
        x = torch.zeros(batch, self.hyper_channels, rows, columns, dtype=torch.int8, device=self.device)
        flat = x.view(batch, -1)
        for k in range(self.config.hyper_passes):
            where = _positions(self.hyper_channels, rows, columns, k, self.config.hyper_passes)
            positions, channel = (part.to(self.device) for part in where)
            means = c["hyper_mean"][quality_index][channel].expand(batch, -1)
            tables = c["hyper_table"][quality_index][channel].expand(batch, -1)
            if k > 0:
                further, tables = self._hyper_predicted(k, x, positions, channel, quality_index)
                means = means + further
            values = (source.hyper(blocks, positions, means, tables) << MEAN_BITS) + means
            flat[:, positions] = signed(scaled(values, c["hyper_multiplier"][quality_index][channel]))
        return x

    def _hyper_predicted(
        self, k: int, x: Tensor, positions: Tensor, channel: Tensor, quality_index: int
    ) -> tuple[Tensor, Tensor]:
        """Return additions to means, and table indices, of pass k of hyper-latents.

        Both are int64 `[B, N]`.
        """
        entry, head, c = self._layers[f"hyper{k}.entry"], self._layers[f"hyper{k}.head"], self._constants
        sums = head.sums(rectified(entry.shifted(columns_of(x, entry.kernel), quality_index)), quality_index)
        for_means, for_tables = sums.view(len(x), 2, -1).unbind(1)
        means = scaled(for_means[:, positions], c[f"hyper{k}.mean_multiplier"][quality_index][channel])
        multiplier, offset = c[f"hyper{k}.table_multiplier"][0][channel], c["hyper_offset"][quality_index][channel]
        return means, scaled(for_tables[:, positions], multiplier, offset).clamp_(0, self.tables.count - 1)

    def _features(self, x: Tensor, quality_index: int) -> Tensor:
        """Return features `[B, width, h, w]` for hyper-latents `[B, Z, h/4, w/4]`."""
        for name in ("synthesise_1", "synthesise_2"):
            layer = self._layers[name]
            y = layer.shifted(columns_of(x, layer.kernel), quality_index)
            x = shuffled(rectified(y).view(x.shape[0], -1, *x.shape[2:]))
        layer = self._layers["synthesise_3"]
        y = layer.shifted(columns_of(x, layer.kernel), quality_index)
        return rectified(y.view(x.shape).add_(x))

    def _features_of_grid(self, x: Tensor, quality_index: int) -> Tensor:
        """Return `_features` of whole grids, band by band."""
        parts, rows = [], x.shape[2]
        for top in range(0, rows, BAND):
            bottom = min(rows, top + BAND)
            first, last = max(0, top - FEATURES_REACH), min(rows, bottom + FEATURES_REACH)
            band = self._features(x[:, :, first:last], quality_index)
            parts.append(band[:, :, HYPER_UNIT * (top - first) : HYPER_UNIT * (bottom - first)])
        return torch.cat(parts, 2)


@lru_cache(maxsize=64)
def _positions(channels: int, height: int, width: int, k: int, passes: int) -> tuple[Tensor, Tensor]:
    """Return ascending flat indices into `[C, h, w]` of pass k, and channels."""
    flat = np.flatnonzero(pass_masks(channels, height, width, passes)[k])
    return torch.from_numpy(flat), torch.from_numpy(flat // (height * width))
