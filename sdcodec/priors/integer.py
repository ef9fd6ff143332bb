"""Layers whose every result is an exact integer, the same on every device: 8-bit weights and activations, sums in float32.

A product of 8-bit integers summed over a fan-in of at most 1,024 stays below 2**24, so float32 holds every partial sum
exactly, whatever the order of summation, with TF32 and with any number of threads. Scales are powers of two: rescaling
is a shift. `conv2d` is never used here: its Winograd and FFT kernels are not exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATION_BITS = 5  # an activation of 1.0 is the integer 32
ACTIVATION_LIMIT = 127
FAN_IN_LIMIT = 1024
RATIO_BITS = 24  # fixed-point multipliers that depend on quality count in 2**-24
MEAN_BITS = 4  # means and dequantised symbols count in 1/16 of a step
MEAN_LIMIT = 1 << 19


@dataclass(frozen=True)
class IntegerLayer:
    """A convolution in integers: `floor((weight · x + bias) / 2**shift)`, each sum exact.

    `weight` `[out, in * kernel * kernel]` float32, whole numbers in -127..127; `bias` `[rows, out]` float32, whole
    numbers, one row or one for each half step of quality; `shift` `[out]` int; `kernel` odd, zero padding.
    """

    weight: Tensor
    bias: Tensor
    shift: Tensor
    kernel: int

    def sums(self, columns: Tensor, half_steps: int) -> Tensor:
        """`[B, in * kernel * kernel, N]` → `[B, out, N]` before the shift, whole numbers below 2**24."""
        row = self.bias[half_steps if self.bias.shape[0] > 1 else 0]
        return torch.matmul(self.weight, columns).add_(row[:, None])

    def shifted(self, columns: Tensor, half_steps: int) -> Tensor:
        """The sums divided by 2**shift and rounded down: exact in float32, since the divisor is a power of two."""
        return self.sums(columns, half_steps).mul_(torch.exp2(-self.shift.float())[:, None]).floor_()

    def to(self, device: torch.device) -> IntegerLayer:
        """The same layer on another device."""
        return IntegerLayer(self.weight.to(device), self.bias.to(device), self.shift.to(device), self.kernel)


def columns_of(x: Tensor, kernel: int) -> Tensor:
    """`[B, C, H, W]` → `[B, C * kernel * kernel, H * W]`: each output position's inputs, zeros outside."""
    return x.flatten(2) if kernel == 1 else F.unfold(x, kernel, padding=kernel // 2)


def rectified(x: Tensor) -> Tensor:
    """Clamps whole numbers to 0..127, in place."""
    return x.clamp_(0, ACTIVATION_LIMIT)


def signed(x: Tensor) -> Tensor:
    """Clamps whole numbers to -127..127, in place."""
    return x.clamp_(-ACTIVATION_LIMIT, ACTIVATION_LIMIT)


def scaled(values: Tensor, multiplier: Tensor, offset: Tensor | int = 0) -> Tensor:
    """`(values * multiplier + offset + 2**23) >> 24` in int64: the product in fixed point, halves rounded up."""
    return (values.long() * multiplier + offset + (1 << (RATIO_BITS - 1))) >> RATIO_BITS
