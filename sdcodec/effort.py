"""Effort: the work of each level from 0 to 9 beyond rounding to the nearest.

Files of every level decode alike.
"""

from __future__ import annotations

from dataclasses import dataclass

from sdcodec.autoencoders.protocol import Autoencoder, DifferentiableAutoencoder
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
# Default levels up to a number of pixels: refining takes seconds then, like starting PyTorch.
UNNAMED = ((1 << 19, 6), (1 << 20, 4))


def check_effort(level: int | None) -> None:
    """Check that a level is one of 0..9, or None. Raises OptionError."""
    check_integer("effort", level, f"choose one from 0 to {HIGHEST}")
    if level is not None and level not in range(len(EFFORTS)):
        raise OptionError(f"effort {level} is unknown; choose a whole number from 0 to {HIGHEST}")


def effort_of(level: int | None, autoencoder: Autoencoder, pixels: int) -> Effort:
    """Return the settings of an effort level; None selects the default.

    The default is that of UNNAMED for an image of `pixels` pixels if the model is quick to refine through, otherwise
    0.
    """
    check_effort(level)
    if level is None:
        quick = isinstance(autoencoder, DifferentiableAutoencoder) and autoencoder.quick_to_refine
        level = next((own for most, own in UNNAMED if quick and pixels <= most), 0)
    return EFFORTS[level]
