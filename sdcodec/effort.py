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
# What pictures of up to so many pixels get where no effort is named: refining takes seconds then, as starting PyTorch does.
UNNAMED = ((1 << 19, 6), (1 << 20, 4))


def check_effort(level: int | None) -> None:
    """One of the levels, or none named. Raises OptionError."""
    if level is not None and level not in range(len(EFFORTS)):
        raise OptionError(f"effort {level} is none of the whole numbers 0..{HIGHEST}")


def effort_of(level: int | None, autoencoder: Autoencoder, pixels: int) -> Effort:
    """What a level stands for; None is what UNNAMED says where the model is quick to refine through, and else 0.

    Raises OptionError for a level that is none.
    """
    check_effort(level)
    if level is None:
        quick = isinstance(autoencoder, DifferentiableAutoencoder) and autoencoder.quick_to_refine
        level = next((own for most, own in UNNAMED if quick and pixels <= most), 0)
    return EFFORTS[level]
