"""The learned prior as a differentiable network: the float twin of `sdcodec.priors.learned`, layer for layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdcodec.constants import (
    ACTIVATION_LIMIT,
    ACTIVATION_ONE,
    MEAN_ONE,
    SCALE_COUNT,
    SCALE_MIN,
    SCALE_RATIO,
    WEIGHT_LIMIT,
    WEIGHT_SHIFT_LIMIT,
)
from sdcodec.priors.config import ANALYSIS_KERNELS, HYPER_KERNEL, PriorConfig
from sdcodec.priors.passes import cell_order, pass_lines, pass_masks
from sdcodec.training.knots import Knots

ACTIVATION_UNIT = 1 / ACTIVATION_ONE
LARGEST_ACTIVATION = ACTIVATION_LIMIT * ACTIVATION_UNIT
MEAN_UNIT = 1 / MEAN_ONE


def round_ste(x: Tensor) -> Tensor:
    """Rounds; the gradient passes straight through."""
    return x + (x.round() - x).detach()


def lower_bound(x: Tensor, bound: float) -> Tensor:
    """max(x, bound), with a gradient that may still push x upwards from below the bound (Ballé et al., 2018)."""
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
    """For each output channel the largest power of two, at most 2**14, by which its weights stay in -127..127."""
    largest = weight.detach().flatten(1).abs().amax(1).float().clamp(min=1e-8)
    return torch.floor(torch.log2((WEIGHT_LIMIT + 0.49) / largest)).clamp(max=WEIGHT_SHIFT_LIMIT)


Lines = tuple[Tensor, Tensor]  # rows and columns, int64


class IntegerReady(nn.Module):
    """What the layers share: activations in int8 steps and, when `quantise` is set, the rounding of the export."""

    quantise: bool = False

    def weight_of(self, weight: Tensor) -> Tensor:
        """The weight, rounded to 8 bits with a scale per output channel, a power of two, when `quantise` is set."""
        if not self.quantise:
            return weight
        scale = torch.exp2(-weight_shift(weight)).view(-1, 1, 1, 1)
        return round_ste(weight / scale).clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT) * scale

    def activation(self, x: Tensor, low: float = 0.0) -> Tensor:
        """Clamps to what int8 holds (from 0 up: ReLU) and rounds to its steps when `quantise` is set."""
        x = x.clamp(low, LARGEST_ACTIVATION)
        return round_ste(x / ACTIVATION_UNIT) * ACTIVATION_UNIT if self.quantise else x

    def signed(self, x: Tensor) -> Tensor:
        """As `activation`, for values of both signs."""
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
        """Returns normalised means and scale indices (before gain and base), `[B, C, h, w]` each.

        `lines`: the rows and columns that are wanted, where not all are; `order` is of these, and so is the result.
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
    """One pass of hyper-latents: those decoded before → how means and scales of all channels change. Begins with not at all."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.context = nn.Conv2d(channels, width, HYPER_KERNEL, padding=HYPER_KERNEL // 2, bias=False)
        self.quality = Knots(width)
        self.head = nn.Conv2d(width, 2 * channels, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, context: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        """Activations `[B, Z, h/4, w/4]` → what is added to means, in activations, and to scale indices, likewise."""
        x = F.conv2d(context, self.weight_of(self.context.weight), padding=1)
        x = self.activation(x + self.quality(quality)[:, :, None, None].to(x.dtype))
        mean, scale = F.conv2d(x, self.weight_of(self.head.weight), self.head.bias).float().chunk(2, 1)
        return mean, scale


@lru_cache(maxsize=32)
def _plan(
    channels: int, height: int, width: int, passes: int, device: torch.device
) -> tuple[Tensor, Tensor, list[Lines]]:
    """Masks, the order in cells and the lines of each pass, where they are needed: a GPU waits while they are copied to it."""
    masks = torch.from_numpy(pass_masks(channels, height, width, passes)).to(device)
    order = torch.from_numpy(cell_order(height, width)).to(device)
    lines: list[Lines] = []
    for k in range(passes):
        rows, columns = pass_lines(height, width, k, passes)
        lines.append((torch.from_numpy(rows).to(device), torch.from_numpy(columns).to(device)))
    return masks, order, lines


def _taken(x: Tensor, lines: Lines | None) -> Tensor:
    return x if lines is None else x.index_select(2, lines[0]).index_select(3, lines[1])


def _placed(part: Tensor, lines: Lines, like: Tensor) -> Tensor:
    """The inverse of `_taken`: zeros elsewhere, in the shape of `like`."""
    wide = part.new_zeros(*part.shape[:3], like.shape[3]).index_copy(3, lines[1], part)
    return torch.zeros_like(like).index_copy(2, lines[0], wide)


def _convolved(x: Tensor, weight: Tensor, lines: Lines | None) -> Tensor:
    """A convolution of odd kernel with zero padding, evaluated at the rows and columns `lines` only."""
    kernel = weight.shape[2]
    if lines is None:
        return F.conv2d(x, weight, padding=kernel // 2)
    padded = F.pad(x, [kernel // 2] * 4)
    windows = _taken(padded.unfold(2, kernel, 1).unfold(3, kernel, 1), lines).permute(0, 1, 4, 5, 2, 3)
    return F.conv2d(windows.flatten(1, 3), weight.reshape(weight.shape[0], -1, 1, 1))


@dataclass
class Coded:
    """What the prior makes of a batch of latents."""

    decoded: Tensor  # `[B, C, h, w]` dequantised symbols, in steps; straight-through gradients
    bits: Tensor  # `[B]` estimated bits of symbols and hyper-symbols
    hyper_bits: Tensor  # `[B]` the hyper-symbols' share
    means: Tensor  # `[B, C, h, w]` predicted means, in steps
    scales: Tensor  # `[B, C, h, w]` scale indices, 0..63


class PriorNetwork(IntegerReady):
    """Hyperprior and context model of four or seven passes; see `Coded` for what comes out."""

    def __init__(self, config: PriorConfig, slope: float) -> None:
        """`slope`: how the logarithm of the gain begins to grow from quality 0 to 100."""
        super().__init__()
        self.config = config
        self.latents_are_given = False
        channels, hyper, width, middle = config.latent_channels, config.hyper_channels, config.width, config.middle
        # Encoder's side only: may stay in floating point.
        first, second, third = ANALYSIS_KERNELS
        self.analyse_1 = nn.Conv2d(channels, width, first, stride=2, padding=1)
        self.analyse_2 = nn.Conv2d(width, width, second, stride=2, padding=1)
        self.analyse_3 = nn.Conv2d(width, hyper, third, padding=1)
        self.hyper_gain = Knots(hyper, start=math.log(2.0), slope=0.3 * slope)
        # Both sides: exported to integers.
        self.hyper_mean = Knots(hyper)
        self.hyper_scale = Knots(hyper, start=math.log(1.0 / SCALE_MIN) / SCALE_RATIO)
        self.hyper_input = Knots(hyper, start=math.log(0.5), slope=-0.3 * slope)
        self.hyper_passes = nn.ModuleList(
            [HyperPass(hyper, config.hyper_context) for _ in range(1, config.hyper_passes)]
        )
        self.synthesise_1 = nn.Conv2d(hyper, 4 * middle, HYPER_KERNEL, padding=1)
        self.quality_1 = Knots(middle)
        self.synthesise_2 = nn.Conv2d(middle, 4 * width, HYPER_KERNEL, padding=1)
        self.quality_2 = Knots(width)
        self.synthesise_3 = nn.Conv2d(width, width, HYPER_KERNEL, padding=1)
        self.quality_3 = Knots(width)
        self.passes = nn.ModuleList([ContextPass(config, first=k == 0) for k in range(config.passes)])
        self.context_gain = Knots(channels, start=math.log(0.25), slope=-slope)
        self.mean_gain = Knots(channels, start=math.log(4.0), slope=slope)
        self.scale_base = Knots(channels, start=math.log(2.0 / SCALE_MIN) / SCALE_RATIO, slope=slope / SCALE_RATIO)

    def set_quantise(self, quantise: bool) -> None:
        """Switches the fake quantisation of everything that the export makes integer."""
        for module in self.modules():
            if isinstance(module, IntegerReady):
                module.quantise = quantise

    def hyper_latents(self, steps: Tensor, quality: Tensor) -> Tensor:
        """Latents in steps `[B, C, h, w]` → hyper-latents in their own steps `[B, Z, h/4, w/4]`, not rounded."""
        x = steps * self.context_gain(quality).exp()[:, :, None, None]
        x = F.silu(self.analyse_2(F.silu(self.analyse_1(x))))
        return self.analyse_3(x).float() * self.hyper_gain(quality).exp()[:, :, None, None]

    def features(self, hyper: Tensor, quality: Tensor) -> Tensor:
        """Dequantised hyper-latents `[B, Z, h/4, w/4]` → features `[B, width, h, w]`."""
        x = self.signed(hyper * self.hyper_input(quality).exp()[:, :, None, None])
        x = F.pixel_shuffle(F.conv2d(x, self.weight_of(self.synthesise_1.weight), self.synthesise_1.bias, padding=1), 2)
        x = self.activation(x + self.quality_1(quality)[:, :, None, None].to(x.dtype))
        x = F.pixel_shuffle(F.conv2d(x, self.weight_of(self.synthesise_2.weight), self.synthesise_2.bias, padding=1), 2)
        x = self.activation(x + self.quality_2(quality)[:, :, None, None].to(x.dtype))
        y = F.conv2d(x, self.weight_of(self.synthesise_3.weight), self.synthesise_3.bias, padding=1)
        return self.activation(x + y + self.quality_3(quality)[:, :, None, None].to(x.dtype))

    def forward(self, steps: Tensor, quality: Tensor) -> Coded:
        """`steps`: latents times gain, `[B, C, h, w]`, h and w multiples of 4; `quality`: `[B]`.

        Rates come from uniform noise while training and from rounding in evaluation mode. Where latents are given, no gradient
        for them is needed: set `latents_are_given`, and the rates of training come from rounding as well, with gradients for
        the scales from the symbols and gradients for the means from what was rounded.
        """
        steps = steps.float()
        hyper = self.hyper_latents(steps, quality)
        hyper_decoded, hyper_mean, hyper_index = self._hyper_decoded(hyper, quality)
        hyper_bits = self._bits(hyper, hyper_decoded, hyper_mean, hyper_index)

        features = self.features(hyper_decoded, quality)
        _, channels, height, width = steps.shape
        passes = self.config.passes
        masks, order, all_lines = _plan(channels, height, width, passes, steps.device)
        context_gain = self.context_gain(quality).exp()[:, :, None, None]
        mean_gain = self.mean_gain(quality).exp()[:, :, None, None]
        scale_base = self.scale_base(quality)[:, :, None, None]
        decoded, means, scales = torch.zeros_like(steps), torch.zeros_like(steps), torch.zeros_like(steps)
        context = torch.zeros_like(features[:, :1]).expand(-1, channels, -1, -1)
        for k in range(passes):
            lines = all_lines[k]
            if len(lines[0]) == height:
                mean, scale = self.passes[k](context, features, quality, order)
            else:
                found = self.passes[k](context, features, quality, order[lines[0]][:, lines[1]], lines)
                mean, scale = (_placed(own, lines, steps) for own in found)
            mean = self._grid(mean * mean_gain)
            mask = masks[k].to(steps.dtype)
            decoded = decoded + mask * (mean + round_ste(steps - mean))
            means = means + mask * mean
            scales = scales + mask * self._scale_index(scale + scale_base)
            if k + 1 < passes:
                context = self.signed(decoded * context_gain)
        bits = self._bits(steps, decoded, means, scales)
        return Coded(decoded, bits + hyper_bits, hyper_bits, means, scales)

    def _hyper_decoded(self, hyper: Tensor, quality: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Hyper-latents `[B, Z, h/4, w/4]` → what is decoded of them, their means and scale indices, likewise."""
        base_mean, base_index = (each(quality)[:, :, None, None] for each in (self.hyper_mean, self.hyper_scale))
        means, index = self._grid(base_mean).expand_as(hyper), self._scale_index(base_index).expand_as(hyper)
        decoded = means + round_ste(hyper - means)
        _, channels, height, width = hyper.shape
        masks = _plan(channels, height, width, 1 + len(self.hyper_passes), hyper.device)[0].to(hyper.dtype)
        unit = self.hyper_input(quality).exp()[:, :, None, None]
        decoded, means, index = (masks[0] * each for each in (decoded, means, index))
        for mask, step in zip(masks[1:], self.hyper_passes, strict=True):
            mean, scale = step(self.signed(decoded * unit), quality)
            mean = self._grid(base_mean + mean / unit)
            decoded = decoded + mask * (mean + round_ste(hyper - mean))
            means, index = means + mask * mean, index + mask * self._scale_index(base_index + scale)
        return decoded, means, index

    def _grid(self, mean: Tensor) -> Tensor:
        return round_ste(mean / MEAN_UNIT) * MEAN_UNIT if self.quantise else mean

    def _scale_index(self, index: Tensor) -> Tensor:
        index = lower_bound(index, 0.0).clamp(max=SCALE_COUNT - 1)
        return round_ste(index) if self.quantise else index

    def _bits(self, values: Tensor, decoded: Tensor, means: Tensor, index: Tensor) -> Tensor:
        """Bits `[B]` of values under Gaussians of the given means and scale indices, integrated over a step."""
        inverse = torch.exp(-SCALE_RATIO * index) / SCALE_MIN
        if self.training and self.latents_are_given:
            bits = _code_length((decoded - means).detach(), inverse)
            towards = _code_length(values - means, inverse.detach())
            bits = bits + towards - towards.detach()
        else:
            noisy = values + torch.rand_like(values) - 0.5 if self.training else decoded
            bits = _code_length(noisy - means, inverse)
        return bits.sum(dim=(1, 2, 3))


def _code_length(residual: Tensor, inverse: Tensor) -> Tensor:
    """Bits of each residual under a Gaussian of standard deviation 1 / inverse, integrated over a step."""
    # By symmetry, on the side of the lower tail, where the difference of the two values keeps its digits.
    distance = -residual.abs()
    upper = torch.special.ndtr((distance + 0.5) * inverse)
    lower = torch.special.ndtr((distance - 0.5) * inverse)
    return -torch.log2(lower_bound(upper - lower, 2.0**-18))
