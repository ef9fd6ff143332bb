"""Blocks of a latent grid: 64x64 latents with a stream of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdcodec import tiling
from sdcodec.constants import BLOCK_LATENTS

BLOCKS_AT_ONCE = 8


@dataclass(frozen=True)
class Block:
    """A block of one image of a batch, with its rows and columns in latents.

    `index` counts the blocks of the image in raster order.
    """

    item: int
    index: int
    rows: slice
    columns: slice

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in latents."""
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start

    @property
    def key(self) -> tuple[int, int]:
        """Image and index, to look the block up by."""
        return self.item, self.index


def block_batches(items: int, height: int, width: int) -> list[list[Block]]:
    """Return the blocks of images of one size in latents, a few of a shape together."""
    places = list(tiling.blocks(height, width, BLOCK_LATENTS))
    shapes = [(rows.stop - rows.start, columns.stop - columns.start) for rows, columns in places]
    batches = []
    for alike in tiling.alike(shapes):
        blocks = [Block(item, index, *places[index]) for index in alike for item in range(items)]
        batches += [blocks[start : start + BLOCKS_AT_ONCE] for start in range(0, len(blocks), BLOCKS_AT_ONCE)]
    return batches


def cut(plane: Tensor, blocks: Sequence[Block], unit: int = 1, margin: int = 0) -> Tensor:
    """Return the blocks' parts of a plane, `[blocks, channels, ...]`.

    plane: `[items, channels, height, width]` with one sample for `unit` x `unit` latents; it has `margin` more samples
        on every side, and so have the parts.
    """
    return torch.stack([plane[block.item][:, *_part(block, unit, margin)] for block in blocks])


def paste(plane: Tensor, blocks: Sequence[Block], parts: Tensor, unit: int = 1, margin: int = 0) -> None:
    """Write parts `[blocks, channels, ...]`, without margins, into a plane of `cut`."""
    for block, own in zip(blocks, parts, strict=True):
        height, width = own.shape[1:]
        top, left = block.rows.start // unit + margin, block.columns.start // unit + margin
        plane[block.item, :, top : top + height, left : left + width] = own


def _part(block: Block, unit: int, margin: int) -> tuple[slice, slice]:
    rows, columns = (slice(side.start // unit, side.stop // unit + 2 * margin) for side in (block.rows, block.columns))
    return rows, columns
