"""State of a walk: what blocks know of themselves, and what the whole grid knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from sdcodec.priors.blocks import Block, cut, paste


@dataclass
class Whole:
    """Inputs of means: features and context of all blocks of all images.

    `features` `[items, width, h, w]` int8; `context` `[items, C, h + 2r, w + 2r]` int8, with zeros around and at
    positions that are not yet coded.
    """

    features: Tensor
    context: Tensor
    reach: int

    @classmethod
    def empty(cls, features: Tensor, channels: int, reach: int) -> Whole:
        """Return the state before the first pass."""
        return cls(features, _empty_context(features, channels, reach), reach)

    def context_of(self, blocks: Sequence[Block]) -> Tensor:
        """Return blocks' context with their surroundings, `[B, C, bh + 2r, bw + 2r]`."""
        return cut(self.context, blocks, margin=self.reach)


@dataclass
class Tile:
    """Blocks of one shape, and the inputs of their tables: these blocks alone.

    `features` `[B, width, h, w]` int8; `context` `[B, C, h + 2r, w + 2r]` int8, with zeros around; `values`
    `[B, C, h, w]` int32, in 1/16 of a quantiser step, predicted from the whole grid.
    """

    blocks: Sequence[Block]
    features: Tensor
    context: Tensor
    values: Tensor
    reach: int
    _pending: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)

    @classmethod
    def empty(cls, blocks: Sequence[Block], features: Tensor, channels: int, reach: int) -> Tile:
        """Return the state before the first pass."""
        batch, _, height, width = features.shape
        values = torch.zeros(batch, channels, height, width, dtype=torch.int32, device=features.device)
        return cls(blocks, features, _empty_context(features, channels, reach), values, reach)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of a block in latents."""
        return self.blocks[0].shape

    def differing(self, features: Tensor, context: Tensor) -> Tensor:
        """Return where inputs from the whole grid differ from those of the blocks.

        It is where predictions can differ, bool `[B, h, w]`.
        """
        seen = (context != self.context).any(1, keepdim=True)
        near = F.max_pool2d(seen.float(), 2 * self.reach + 1, stride=1)[:, 0] > 0
        return near | (features != self.features).any(1)

    def take(self, positions: Tensor, values: Tensor, own_context: Tensor, whole_context: Tensor) -> None:
        """Take the values of a pass, `[B, N]`; its contexts wait until it has ended."""
        self.values.view(len(self.blocks), -1)[:, positions] = values.to(torch.int32)
        self._pending.append((positions, own_context, whole_context))

    def end_pass(self, whole: Whole | None) -> None:
        """Show the pass to the next one."""
        for positions, own, shared in self._pending:
            _write(self.context, self.reach, positions, own)
            if whole is not None:
                parts = whole.context_of(self.blocks)
                inner = _write(parts, self.reach, positions, shared)
                paste(whole.context, self.blocks, inner, margin=self.reach)
        self._pending.clear()


def _empty_context(features: Tensor, channels: int, reach: int) -> Tensor:
    batch, _, height, width = features.shape
    return features.new_zeros(batch, channels, height + 2 * reach, width + 2 * reach)


def _write(context: Tensor, reach: int, positions: Tensor, values: Tensor) -> Tensor:
    """Write values at flat positions within the margin; return that part."""
    height, width = context.shape[-2] - 2 * reach, context.shape[-1] - 2 * reach
    inner = context[..., reach : reach + height, reach : reach + width].contiguous()
    inner.view(len(inner), -1)[:, positions] = values
    context[..., reach : reach + height, reach : reach + width] = inner
    return inner
