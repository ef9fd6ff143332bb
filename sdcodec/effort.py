"""Effort: the work of each level from 0 to 9 beyond rounding to the nearest.

Files of every level decode alike.
"""

from __future__ import annotations

from dataclasses import dataclass

from sdcodec.errors import OptionError
from sdcodec.options import check_integer
from sdcodec.priors.rounding import PLAIN, Rounding


@dataclass(frozen=True)
class Effort:
    """Rounding of latents, and steps of gradient descent before it.

    The latter are those of `sdcodec.refinement`.
    """

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


def effort_of(level: int) -> Effort:
    """Return the settings of an effort level, 0..9. Raises OptionError for another."""
    check_integer("effort", level, f"choose one from 0 to {HIGHEST}", optional=False)
    if level not in range(len(EFFORTS)):
        raise OptionError(f"effort {level} is unknown; choose a whole number from 0 to {HIGHEST}")
    return EFFORTS[level]
