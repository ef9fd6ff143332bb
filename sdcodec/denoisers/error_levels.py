"""Error of dequantised latents: measured while encoding, stored in the file.

It takes a byte per channel group; without it, that of rounding is assumed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sdcodec.errors import FormatError

GROUPS = 4  # at most; channel c of C belongs to group G · c / C, as in the prior's passes
ONE = 192  # the byte of a deviation of 1; 16 more double it


def groups(channels: int) -> int:
    """Return the number of groups, and bytes, for a number of channels."""
    return min(GROUPS, channels)


def pack_deviations(variances: Tensor) -> bytes:
    """Pack the error's mean square in each channel, `[C]`, for the chunk `n`."""
    variances = variances.double().cpu()
    total = groups(len(variances))
    members = [variances[_group(len(variances), total) == g] for g in range(total)]
    return bytes(_byte(math.sqrt(float(group.mean()))) for group in members)


def unpack_deviations(payload: bytes, channels: int) -> Tensor:
    """Unpack the chunk `n`: the error's standard deviation per channel, float64 `[C]`.

    Raises FormatError if there is no byte, or more than channels.
    """
    if not 1 <= len(payload) <= channels:
        raise FormatError(f"damaged: {len(payload)} deviations of the error for {channels} channels")
    levels = torch.tensor([2.0 ** ((byte - ONE) / 16) for byte in payload], dtype=torch.float64)
    return levels[_group(channels, len(payload))]


def uniform_deviations(inverse_gain: Tensor) -> Tensor:
    """Return the standard deviation of rounding alone, step / √12, float64 `[C]`.

    `inverse_gain` `[C]` is a quantiser step in the decoder's latents.
    """
    return inverse_gain.double().cpu() / math.sqrt(12)


def _group(channels: int, total: int) -> Tensor:
    return torch.arange(channels) * total // channels


def _byte(deviation: float) -> int:
    if deviation <= 0:
        return 0
    return min(255, max(0, round(ONE + 16 * math.log2(deviation))))
