"""The error of dequantised latents: measured while encoding, stored in a byte a channel group, guessed where it is not."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sdcodec.errors import FormatError

GROUPS = 4  # at most; channel c of C belongs to group G · c / C, as in the prior's passes
ONE = 192  # the byte that stands for a deviation of 1; 16 more are twice as much


def groups(channels: int) -> int:
    """How many groups, and bytes, an encoder writes for so many channels."""
    return min(GROUPS, channels)


def pack_deviations(variances: Tensor) -> bytes:
    """The error's mean square in each channel, `[C]` → the payload of the chunk `n`."""
    variances = variances.double().cpu()
    total = groups(len(variances))
    members = [variances[_group(len(variances), total) == g] for g in range(total)]
    return bytes(_byte(math.sqrt(float(group.mean()))) for group in members)


def unpack_deviations(payload: bytes, channels: int) -> Tensor:
    """The payload of the chunk `n` → the error's standard deviation in each channel, float64 `[C]`.

    Raises FormatError where there is no byte, or more than channels.
    """
    if not 1 <= len(payload) <= channels:
        raise FormatError(f"damaged: {len(payload)} deviations of the error for {channels} channels")
    levels = torch.tensor([2.0 ** ((byte - ONE) / 16) for byte in payload], dtype=torch.float64)
    return levels[_group(channels, len(payload))]


def uniform_deviations(inverse_gain: Tensor) -> Tensor:
    """What rounding alone leaves, step² / 12: for `inverse_gain` `[C]`, a step in the decoder's latents → float64 `[C]`."""
    return inverse_gain.double().cpu() / math.sqrt(12)


def _group(channels: int, total: int) -> Tensor:
    return torch.arange(channels) * total // channels


def _byte(deviation: float) -> int:
    if deviation <= 0:
        return 0
    return min(255, max(0, round(ONE + 16 * math.log2(deviation))))
