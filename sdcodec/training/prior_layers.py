"""Layers of the learned prior in training, with rounding to integers on demand."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdcodec.constants import (
    ACTIVATION_LIMIT,
    ACTIVATION_ONE,
    WEIGHT_LIMIT,
    WEIGHT_SHIFT_LIMIT,
)
from sdcodec.priors.config import HYPER_KERNEL, PriorConfig
from sdcodec.training.knots import Knots

ACTIVATION_UNIT = 1 / ACTIVATION_ONE
LARGEST_ACTIVATION = ACTIVATION_LIMIT * ACTIVATION_UNIT


def round_ste(x: Tensor) -> Tensor:
    """Round; the gradient passes unchanged."""
    return x + (x.round() - x).detach()


def lower_bound(x: Tensor, bound: float) -> Tensor:
    """Return max(x, bound); its gradient can still raise x below the bound.

    Ballé et al., 2018.
    """
    return _LowerBound.apply(x, bound)


class _LowerBound(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, bound):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x < bound)
        return x.clamp(min=bound)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        (below,) = ctx.saved_tensors
        return gradient.masked_fill(below & (gradient > 0), 0), None


def weight_shift(weight: Tensor) -> Tensor:
    """Return the largest shift, at most 14, that keeps each output's weights in int8."""
    largest = weight.detach().flatten(1).abs().amax(1).float().clamp(min=1e-8)
    return torch.floor(torch.log2((WEIGHT_LIMIT + 0.49) / largest)).clamp(max=WEIGHT_SHIFT_LIMIT)


Lines = tuple[Tensor, Tensor]  # rows and columns, int64


class IntegerReady(nn.Module):
    """Base of the layers: int8 activations, and rounding if `quantise` is set."""

    quantise: bool = False

    def weight_of(self, weight: Tensor) -> Tensor:
        """Return the weight, rounded to 8 bits if `quantise` is set.

        Its scale per output channel is a power of two.
        """
        if not self.quantise:
            return weight
        scale = torch.exp2(-weight_shift(weight)).view(-1, 1, 1, 1)
        return round_ste(weight / scale).clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT) * scale

    def activation(self, x: Tensor, low: float = 0.0) -> Tensor:
        """Clamp to the range of int8 (from 0 up: ReLU), and round if `quantise` is set."""
        x = x.clamp(low, LARGEST_ACTIVATION)
        return round_ste(x / ACTIVATION_UNIT) * ACTIVATION_UNIT if self.quantise else x

    def signed(self, x: Tensor) -> Tensor:
        """Clamp values of both signs as `activation` does."""
        return self.activation(x, -LARGEST_ACTIVATION)


class ContextPass(IntegerReady):
    """One pass: decoded symbols and hyper features → mean and scale of every channel."""

    def __init__(self, config: PriorConfig, first: bool) -> None:
        super().__init__()
        width, kernel = config.width, config.context_kernel
        self.context = (
            None if first else nn.Conv2d(config.latent_channels, width, kernel, padding=kernel // 2, bias=False)
        )
        self.features = nn.Conv2d(width, width, 1, bias=False)
        self.quality = Knots(width)
        self.cell = nn.Parameter(torch.zeros(4, width))
        self.expand = nn.ModuleList([nn.Conv2d(width, config.expansion * width, 1) for _ in range(config.blocks)])
        self.project = nn.ModuleList([nn.Conv2d(config.expansion * width, width, 1) for _ in range(config.blocks)])
        self.head = nn.Conv2d(width, 2 * config.latent_channels, 1)
        self.direct: nn.Conv2d | None = None
        if config.direct_kernel and not first:
            self.direct = nn.Conv2d(
                config.latent_channels,
                config.latent_channels,
                config.direct_kernel,
                padding=config.direct_kernel // 2,
                bias=False,
            )
            nn.init.zeros_(self.direct.weight)
        with torch.no_grad():
            for layer in self.project:
                layer.weight.mul_(0.3)
            self.head.weight.mul_(0.1)
            self.head.bias.zero_()

    def forward(
        self, context: Tensor, features: Tensor, quality: Tensor, order: Tensor, lines: Lines | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return normalised means and scale indices, `[B, C, h, w]` each.

        Gain and base are not included. `lines`: rows and columns of the result, None for all; `order` has the same
        positions.
        """
        if self.context is None:
            x = F.conv2d(_taken(features, lines), self.weight_of(self.features.weight))
        else:
            # One scale per output channel for both parts: the export multiplies them as one matrix.
            both = torch.cat([self.context.weight.flatten(1), self.features.weight.flatten(1)], 1)
            both = self.weight_of(both[:, :, None, None])[:, :, 0, 0]
            split = self.context.weight[0].numel()
            x = _convolved(context, both[:, :split].reshape(self.context.weight.shape), lines)
            x = x + F.conv2d(_taken(features, lines), both[:, split:].reshape(self.features.weight.shape))
        x = x + (self.quality(quality)[:, :, None, None] + self.cell.T[None, :, order]).to(x.dtype)
        x = self.activation(x)
        for expand, project in zip(self.expand, self.project, strict=True):
            inner = self.activation(F.conv2d(x, self.weight_of(expand.weight), expand.bias))
            x = self.signed(x + F.conv2d(inner, self.weight_of(project.weight), project.bias))
        mean, scale = F.conv2d(x, self.weight_of(self.head.weight), self.head.bias).float().chunk(2, 1)
        if self.direct is not None:
            mean = mean + _convolved(context, self.weight_of(self.direct.weight), lines).float()
        return mean, scale


class HyperPass(IntegerReady):
    """One pass of hyper-latents: changes of means and scales from decoded ones.

    It begins with no changes.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.context = nn.Conv2d(channels, width, HYPER_KERNEL, padding=HYPER_KERNEL // 2, bias=False)
        self.quality = Knots(width)
        self.head = nn.Conv2d(width, 2 * channels, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, context: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        """Return additions to means and to scale indices, both `[B, Z, h/4, w/4]`.

        `context` are activations `[B, Z, h/4, w/4]`; means are in activations.
        """
        x = F.conv2d(context, self.weight_of(self.context.weight), padding=1)
        x = self.activation(x + self.quality(quality)[:, :, None, None].to(x.dtype))
        mean, scale = F.conv2d(x, self.weight_of(self.head.weight), self.head.bias).float().chunk(2, 1)
        return mean, scale


def _taken(x: Tensor, lines: Lines | None) -> Tensor:
    return x if lines is None else x.index_select(2, lines[0]).index_select(3, lines[1])


def _convolved(x: Tensor, weight: Tensor, lines: Lines | None) -> Tensor:
    """Convolve with zero padding at the rows and columns `lines` only.

    The kernel is odd.
    """
    kernel = weight.shape[2]
    if lines is None:
        return F.conv2d(x, weight, padding=kernel // 2)
    padded = F.pad(x, [kernel // 2] * 4)
    windows = _taken(padded.unfold(2, kernel, 1).unfold(3, kernel, 1), lines).permute(0, 1, 4, 5, 2, 3)
    return F.conv2d(windows.flatten(1, 3), weight.reshape(weight.shape[0], -1, 1, 1))
