"""Effort: what each level from 0 to 9 does beyond rounding to the nearest. Files of every level decode alike."""

from __future__ import annotations

from dataclasses import dataclass

from sdcodec.autoencoders.protocol import Autoencoder, DifferentiableAutoencoder
from sdcodec.errors import OptionError
from sdcodec.priors.rounding import PLAIN, Rounding


@dataclass(frozen=True)
class Effort:
    """How latents are rounded, and how many steps of gradient descent refine them before (`sdcodec.refinement`)."""

    rounding: Rounding = PLAIN
    iterations: int = 0


# Below a worth of 40 bits or so, models lose more by LPIPS than they gain by PSNR. Steps of descent double from level to
# level. `benchmarks/effort.py` measures what each level gains and costs.
EFFORTS = (
    Effort(),
    Effort(Rounding(worth=120.0)),
    Effort(Rounding(worth=60.0)),
    Effort(Rounding(worth=40.0)),
    *(Effort(iterations=2**k) for k in range(1, 7)),
)
HIGHEST = len(EFFORTS) - 1
# Pixels of a picture that nobody should have to wait for: up to here refining takes seconds, as starting PyTorch does.
UNHURRIED = 1 << 20


def effort_of(level: int | None, autoencoder: Autoencoder, pixels: int) -> Effort:
    """What a level stands for; None is the model's own default, or in pictures of more than UNHURRIED pixels 0.

    Raises OptionError for a level that is none.
    """
    if level is None:
        level = 0
        if isinstance(autoencoder, DifferentiableAutoencoder) and pixels <= UNHURRIED:
            level = autoencoder.default_effort
    if level not in range(len(EFFORTS)):
        raise OptionError(f"effort {level} is none of the whole numbers 0..{HIGHEST}")
    return EFFORTS[level]
