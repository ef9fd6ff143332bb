"""Effort: what each level from 0 to 9 does beyond rounding to the nearest. Files of every level decode alike."""

from __future__ import annotations

from dataclasses import dataclass

from sdcodec.errors import OptionError
from sdcodec.priors.rounding import PLAIN, Rounding


@dataclass(frozen=True)
class Effort:
    """How latents are rounded, and how many steps of gradient descent refine them before (`sdcodec.refinement`)."""

    rounding: Rounding = PLAIN
    iterations: int = 0


# Steps of descent double from level to level; `benchmarks/effort.py` measures what each gains and costs.
EFFORTS = (
    Effort(),
    Effort(Rounding(worth=60.0)),
    Effort(Rounding(worth=30.0)),
    Effort(Rounding(worth=15.0)),
    *(Effort(iterations=2**k) for k in range(1, 7)),
)
HIGHEST = len(EFFORTS) - 1
DEFAULT = 0


def effort_of(level: int | None) -> Effort:
    """What a level stands for; None is the default. Raises OptionError for a level that is none."""
    if level is None:
        return EFFORTS[DEFAULT]
    if level not in range(len(EFFORTS)):
        raise OptionError(f"effort {level} is none of the whole numbers 0..{HIGHEST}")
    return EFFORTS[level]
