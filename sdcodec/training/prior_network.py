"""Learned prior as a differentiable network: the float twin of `LearnedPrior`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdcodec.constants import (
    MEAN_ONE,
    SCALE_COUNT,
    SCALE_MIN,
    SCALE_RATIO,
)
from sdcodec.priors.config import ANALYSIS_KERNELS, HYPER_KERNEL, PriorConfig
from sdcodec.priors.passes import cell_order, pass_lines, pass_masks
from sdcodec.training.knots import Knots
from sdcodec.training.prior_layers import ContextPass, HyperPass, IntegerReady, Lines, lower_bound, round_ste

MEAN_UNIT = 1 / MEAN_ONE


@lru_cache(maxsize=32)
def _plan(
    channels: int, height: int, width: int, passes: int, device: torch.device
) -> tuple[Tensor, Tensor, list[Lines]]:
    """Return masks, the order in cells and the lines of each pass, on the device.

    They are cached: a GPU waits while they are copied to it.
    """
    masks = torch.from_numpy(pass_masks(channels, height, width, passes)).to(device)
    order = torch.from_numpy(cell_order(height, width)).to(device)
    lines: list[Lines] = []
    for k in range(passes):
        rows, columns = pass_lines(height, width, k, passes)
        lines.append((torch.from_numpy(rows).to(device), torch.from_numpy(columns).to(device)))
    return masks, order, lines


def _placed(part: Tensor, lines: Lines, like: Tensor) -> Tensor:
    """Put taken rows and columns back, with zeros elsewhere, in the shape of `like`."""
    wide = part.new_zeros(*part.shape[:3], like.shape[3]).index_copy(3, lines[1], part)
    return torch.zeros_like(like).index_copy(2, lines[0], wide)


@dataclass
class Coded:
    """Result of the prior for a batch of latents."""

    decoded: Tensor  # `[B, C, h, w]` dequantised symbols, in quantiser steps; straight-through gradients
    bits: Tensor  # `[B]` estimated bits of symbols and hyper-symbols
    hyper_bits: Tensor  # `[B]` the hyper-symbols' share
    means: Tensor  # `[B, C, h, w]` predicted means, in quantiser steps
    scales: Tensor  # `[B, C, h, w]` scale indices, 0..63


class PriorNetwork(IntegerReady):
    """Hyperprior and context model of four or seven passes."""

    def __init__(self, config: PriorConfig, slope: float) -> None:
        """Build the network.

        `slope`: initial growth of the logarithm of the gain from quality 0 to 100.
        """
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
        """Switch the simulated rounding of everything that the export makes integer."""
        for module in self.modules():
            if isinstance(module, IntegerReady):
                module.quantise = quantise

    def hyper_latents(self, scaled: Tensor, quality: Tensor) -> Tensor:
        """Analyse scaled latents `[B, C, h, w]`.

        Returns hyper-latents in their own steps `[B, Z, h/4, w/4]`, not rounded.
        """
        x = scaled * self.context_gain(quality).exp()[:, :, None, None]
        x = F.silu(self.analyse_2(F.silu(self.analyse_1(x))))
        return self.analyse_3(x).float() * self.hyper_gain(quality).exp()[:, :, None, None]

    def features(self, hyper: Tensor, quality: Tensor) -> Tensor:
        """Return features `[B, width, h, w]` of dequantised hyper-latents.

        The latter are `[B, Z, h/4, w/4]`.
        """
        x = self.signed(hyper * self.hyper_input(quality).exp()[:, :, None, None])
        x = F.pixel_shuffle(F.conv2d(x, self.weight_of(self.synthesise_1.weight), self.synthesise_1.bias, padding=1), 2)
        x = self.activation(x + self.quality_1(quality)[:, :, None, None].to(x.dtype))
        x = F.pixel_shuffle(F.conv2d(x, self.weight_of(self.synthesise_2.weight), self.synthesise_2.bias, padding=1), 2)
        x = self.activation(x + self.quality_2(quality)[:, :, None, None].to(x.dtype))
        y = F.conv2d(x, self.weight_of(self.synthesise_3.weight), self.synthesise_3.bias, padding=1)
        return self.activation(x + y + self.quality_3(quality)[:, :, None, None].to(x.dtype))

    def forward(self, scaled: Tensor, quality: Tensor) -> Coded:
        """Code latents times gain `scaled`, `[B, C, h, w]`, h and w multiples of 4.

        `quality` is `[B]`. Rates come from uniform noise while training and from rounding in evaluation mode. Given
        latents need no
        gradient: with `latents_are_given` the rates of training come from rounding as well, with gradients for the
        scales from the symbols and gradients for the means from the unrounded latents.
        """
        scaled = scaled.float()
        hyper = self.hyper_latents(scaled, quality)
        hyper_decoded, hyper_mean, hyper_index = self._hyper_decoded(hyper, quality)
        hyper_bits = self._bits(hyper, hyper_decoded, hyper_mean, hyper_index)

        features = self.features(hyper_decoded, quality)
        _, channels, height, width = scaled.shape
        passes = self.config.passes
        masks, order, all_lines = _plan(channels, height, width, passes, scaled.device)
        context_gain = self.context_gain(quality).exp()[:, :, None, None]
        mean_gain = self.mean_gain(quality).exp()[:, :, None, None]
        scale_base = self.scale_base(quality)[:, :, None, None]
        decoded, means, scales = torch.zeros_like(scaled), torch.zeros_like(scaled), torch.zeros_like(scaled)
        context = torch.zeros_like(features[:, :1]).expand(-1, channels, -1, -1)
        for k in range(passes):
            lines = all_lines[k]
            if len(lines[0]) == height:
                mean, scale = self.passes[k](context, features, quality, order)
            else:
                found = self.passes[k](context, features, quality, order[lines[0]][:, lines[1]], lines)
                mean, scale = (_placed(own, lines, scaled) for own in found)
            mean = self._grid(mean * mean_gain)
            mask = masks[k].to(scaled.dtype)
            decoded = decoded + mask * (mean + round_ste(scaled - mean))
            means = means + mask * mean
            scales = scales + mask * self._scale_index(scale + scale_base)
            if k + 1 < passes:
                context = self.signed(decoded * context_gain)
        bits = self._bits(scaled, decoded, means, scales)
        return Coded(decoded, bits + hyper_bits, hyper_bits, means, scales)

    def _hyper_decoded(self, hyper: Tensor, quality: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return decoded hyper-latents, their means and scale indices.

        Each is `[B, Z, h/4, w/4]`.
        """
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
        """Return the bits `[B]` of values under Gaussians, integrated over a step."""
        inverse = torch.exp(-SCALE_RATIO * index) / SCALE_MIN
        if self.training and self.latents_are_given:
            bits = self.code_length((decoded - means).detach(), inverse)
            towards = self.code_length(values - means, inverse.detach())
            bits = bits + towards - towards.detach()
        else:
            noisy = values + torch.rand_like(values) - 0.5 if self.training else decoded
            bits = self.code_length(noisy - means, inverse)
        return bits.sum(dim=(1, 2, 3))

    def code_length(self, residual: Tensor, inverse: Tensor) -> Tensor:
        """Return the bits of each residual under a Gaussian, integrated over a step.

        Its standard deviation is 1 / inverse.
        """
        # By symmetry, on the side of the lower tail: the difference of the two values keeps its digits there.
        distance = -residual.abs()
        upper = torch.special.ndtr((distance + 0.5) * inverse)
        lower = torch.special.ndtr((distance - 0.5) * inverse)
        return -torch.log2(lower_bound(upper - lower, 2.0**-18))
