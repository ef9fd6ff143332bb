"""Integer layers: 8-bit weights and activations, exact sums on every device.

If 127 times an output's absolute weights, and its bias, add up to less than 2**24 (a bundle's weights are checked for
it; a fan-in of 1,040 cannot exceed it), float32 holds every partial sum exactly, whatever the order of summation,
with TF32 and with any number of threads; exact int8 products are quicker if they are available. Scales are powers of
two: rescaling is a shift. `conv2d` is never used here: its Winograd and FFT kernels are not exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sdcodec.constants import ACTIVATION_LIMIT, RATIO_BITS


@dataclass(frozen=True)
class IntegerLayer:
    """A convolution in integers: `floor((weight · x + bias) / 2**shift)`.

    `weight` `[out, in * kernel * kernel]` int8 in -127..127; `bias` `[rows, out]` float32, whole numbers, one row or
    one for each quality index; `shift` `[out]` int; `kernel` odd, zero padding. `in_int8`: multiply in int8, which
    `multiplies_exactly` must have allowed; otherwise in float32.
    """

    weight: Tensor
    bias: Tensor
    shift: Tensor
    kernel: int
    in_int8: bool

    def sums(self, columns: Tensor, quality_index: int) -> Tensor:
        """Return the sums before the shift, whole numbers below 2**24.

        `columns` is int8 `[B, in * kernel * kernel, N]`; the sums are float32 `[B, out, N]`.
        """
        row = self.bias[quality_index if self.bias.shape[0] > 1 else 0]
        if self.in_int8:
            each = [torch._int_mm(self.weight, own) for own in columns]
            products = (each[0][None] if len(each) == 1 else torch.stack(each)).float()
        else:
            products = torch.matmul(self.weight.float(), columns.float())
        return products.add_(row[:, None])

    def shifted(self, columns: Tensor, quality_index: int) -> Tensor:
        """Return the sums divided by 2**shift and rounded down."""
        return self.divided(self.sums(columns, quality_index))

    def divided(self, sums: Tensor) -> Tensor:
        """Divide by 2**shift and round down, in place.

        It is exact in float32, since the divisor is a power of two.
        """
        return sums.mul_(torch.exp2(-self.shift.float())[:, None]).floor_()


def multiplies_exactly(weight: Tensor) -> bool:
    """Return whether PyTorch's int8 product gives the exact sums here.

    It is several times as fast as float32 on hardware with int8 instructions. Only CPUs with them are asked: others
    add pairs of products in 16 bits, which overflow. As `ONEDNN_MAX_CPU_ISA` can disable these instructions, the
    largest sums that the weights allow are tried.
    """
    if weight.device.type != "cpu" or not _has_int8_instructions():
        return False
    largest = weight.sign().T * ACTIVATION_LIMIT
    inputs = torch.cat([largest, -largest, largest.abs(), -largest.abs()], 1).to(torch.int8).contiguous()
    return torch.equal(torch._int_mm(weight, inputs).float(), torch.matmul(weight.float(), inputs.float()))


def _has_int8_instructions() -> bool:
    known: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return hasattr(torch, "_int_mm") and bool(known.get("avx512_vnni") or known.get("amx_int8"))


def columns_of(x: Tensor, kernel: int) -> Tensor:
    """Return each output position's inputs, `[B, C * kernel * kernel, H * W]`.

    `x` is `[B, C, H, W]`, zero outside.
    """
    if kernel == 1:
        return x.flatten(2)
    reach = kernel // 2
    seen = F.pad(x, (reach, reach, reach, reach)).unfold(2, x.shape[2], 1).unfold(3, x.shape[3], 1)
    return seen.reshape(x.shape[0], -1, x.shape[2] * x.shape[3])


def shuffled(x: Tensor) -> Tensor:
    """Return `[B, 4C, H, W]` as `[B, C, 2H, 2W]`: `pixel_shuffle` for any type."""
    batch, channels, height, width = x.shape
    apart = x.view(batch, channels // 4, 2, 2, height, width)
    return apart.permute(0, 1, 4, 2, 5, 3).reshape(batch, channels // 4, 2 * height, 2 * width)


def rectified(x: Tensor) -> Tensor:
    """Clamp whole numbers to 0..127, as int8."""
    return x.clamp(0, ACTIVATION_LIMIT).to(torch.int8)


def signed(x: Tensor) -> Tensor:
    """Clamp whole numbers to -127..127, as int8."""
    return x.clamp(-ACTIVATION_LIMIT, ACTIVATION_LIMIT).to(torch.int8)


def scaled(values: Tensor, multiplier: Tensor, offset: Tensor | int = 0) -> Tensor:
    """Return `(values * multiplier + offset + 2**23) >> 24` in int64.

    It is the product in fixed point, halves rounded up.
    """
    return (values.long() * multiplier + offset + (1 << (RATIO_BITS - 1))) >> RATIO_BITS
