"""Integer layers: 8-bit weights and activations, exact sums on every device.

If 127 times an output's absolute weights, and its bias, add up to less than 2**24 (a bundle's weights are checked for
it; a fan-in of 1,040 cannot exceed it), float32 holds every partial sum exactly, whatever the order of summation,
with TF32 and with any number of threads; exact int8 products are quicker if they are available. Scales are powers of
two: rescaling is a shift. `conv2d` is never used here: its Winograd and FFT kernels are not exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sdcodec.constants import ACTIVATION_LIMIT, EXACT_LIMIT, RATIO_BITS
from sdcodec.errors import BundleError


@dataclass(frozen=True)
class IntegerLayer:
    """A convolution in integers: `floor((weight · x + bias) / 2**shift)`.

    `weight` `[out, in * kernel * kernel]` in -127..127; `bias` `[rows, out]`, one row or one for each quality index;
    `shift` `[out]`; `kernel` odd, zero padding. `in_int8`: multiply in int8, which `multiplies_exactly` must have
    allowed, and add in int32; otherwise everything is float32, in which the same whole numbers are exact.
    """

    weight: Tensor
    bias: Tensor
    shift: Tensor
    kernel: int
    in_int8: bool

    def sums(self, columns: Tensor, quality_index: int) -> Tensor:
        """Return the sums before the shift, whole numbers below 2**24.

        `columns` is int8 `[B, in * kernel * kernel, N]`; the sums are int32 or float32 `[B, out, N]`.
        """
        row = self.bias[quality_index if self.bias.shape[0] > 1 else 0]
        if self.in_int8:
            shape = columns.shape[0], self.weight.shape[0], columns.shape[2]
            products = torch.empty(shape, dtype=torch.int32, device=columns.device)
            for own, result in zip(columns, products, strict=True):
                torch._int_mm(self.weight, own, out=result)
        else:
            products = torch.matmul(self.weight, columns.float())
        return products.add_(row[:, None])

    def shifted(self, columns: Tensor, quality_index: int) -> Tensor:
        """Return the sums divided by 2**shift and rounded down."""
        sums = self.sums(columns, quality_index)
        if self.in_int8:
            return sums.bitwise_right_shift_(self.shift[:, None])
        # Exact, since the divisor is a power of two.
        return sums.mul_(torch.exp2(-self.shift.float())[:, None]).floor_()


def integer_layer(
    tensors: Mapping[str, Tensor],
    name: str,
    device: torch.device,
    *,
    kernel: int = 1,
    rows: Tensor | None = None,
    columns: Tensor | None = None,
    further: Tensor | None = None,
) -> IntegerLayer:
    """Return a layer of the prior, or its part for some `rows` and `columns`.

    `further` `[out]` is added to its bias.

    Raises BundleError if its sums could exceed what float32 holds exactly.
    """
    weight, bias, shift = (tensors[f"{name}.{part}"] for part in ("weight", "bias", "shift"))
    largest = weight.float().abs().sum(1).max() * ACTIVATION_LIMIT + bias.abs().max()
    if largest >= EXACT_LIMIT:
        raise BundleError(f"the prior's layer {name} can exceed 2**24; it was not exported by this library")
    if further is not None:
        bias = bias + further
    if rows is not None:
        weight, bias, shift = weight[rows], bias[:, rows], shift[rows]
    if columns is not None:
        weight = weight[:, columns]
    weight = weight.contiguous().to(device)
    in_int8 = multiplies_exactly(weight)
    kind = torch.int32 if in_int8 else torch.float32
    return IntegerLayer(
        weight if in_int8 else weight.float(), bias.to(device, kind), shift.to(device, torch.int32), kernel, in_int8
    )


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
    """Clamp whole numbers to 0..127, in place, and return them as int8."""
    return x.clamp_(0, ACTIVATION_LIMIT).to(torch.int8)


def signed(x: Tensor) -> Tensor:
    """Clamp whole numbers to -127..127, in place, and return them as int8."""
    return x.clamp_(-ACTIVATION_LIMIT, ACTIVATION_LIMIT).to(torch.int8)


def scaled(values: Tensor, multiplier: Tensor, offset: Tensor | int = 0) -> Tensor:
    """Return `(values * multiplier + offset + 2**23) >> 24` in int64.

    It is the product in fixed point, halves rounded up.
    """
    return (values.long() * multiplier + offset + (1 << (RATIO_BITS - 1))) >> RATIO_BITS
