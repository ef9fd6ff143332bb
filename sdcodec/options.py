"""Options of a codec: checks that raise OptionError."""

from __future__ import annotations

import math
from fractions import Fraction

from sdcodec.errors import OptionError

MODES = ("latents", "palette")
DIVISORS = {Fraction(1, divisor): divisor for divisor in (1, 2, 4, 8)}  # of the sides, by the scale of an image


def check_rate(quality: float | None, target_bytes: int | None, target_bpp: float | None) -> None:
    """Check that at most one is given, within its range. Raises OptionError."""
    if sum(value is not None for value in (quality, target_bytes, target_bpp)) > 1:
        raise OptionError("quality, target_bytes and target_bpp exclude each other; give one of them")
    if quality is not None and not 0 <= quality <= 100:
        raise OptionError(f"quality {quality} is outside 0..100")
    if target_bytes is not None and target_bytes < 1:
        raise OptionError(f"target_bytes {target_bytes} is not positive")
    if target_bpp is not None and not 0 < target_bpp < math.inf:
        raise OptionError(f"target_bpp {target_bpp} is not positive")


def check_mode(mode: str, quality: float | None, effort: int | None) -> None:
    """Check a mode; a palette has neither quality nor effort. Raises OptionError."""
    if mode not in MODES:
        raise OptionError(f"mode {mode!r} is unknown; choose {' or '.join(MODES)}")
    if mode == "palette" and (quality is not None or effort):
        raise OptionError("a palette has no quality and no effort; give target_bytes or target_bpp for fewer colours")


def check_denoising(num_steps: int, strength: float | None, seed: int) -> None:
    """Check each option of denoising. Raises OptionError."""
    if num_steps < 0:
        raise OptionError(f"denoise {num_steps} is negative; give a number of steps, 0 for none")
    if strength is not None and not 0 <= strength < math.inf:
        raise OptionError(f"strength {strength} is not a factor from 0 up")
    if not 0 <= seed < 1 << 63:
        raise OptionError(f"seed {seed} is outside 0..2**63 - 1")


def check_realism(realism: float | None, default: float | None) -> None:
    """Check a realism.

    `default` is that of the model, None if its decoder has none. Raises OptionError.
    """
    if realism is None:
        return
    if not isinstance(realism, (int, float)) or not 0 <= realism <= 1:
        raise OptionError(f"realism {realism!r} is no number from 0 to 1")
    if default is None:
        raise OptionError("this model's decoder has no realism to choose; leave --realism (realism) out")


def check_scale(scale: float | Fraction) -> int:
    """Return the divisor of the sides for a scale. Raises OptionError."""
    try:
        return DIVISORS[scale]  # type: ignore[index]  # a float that is equal has the same hash
    except (KeyError, TypeError) as error:
        raise OptionError(f"scale {scale!r} is none of 1, 1/2, 1/4 and 1/8; give 0.5, 0.25 or 0.125") from error
