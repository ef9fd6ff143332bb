"""Options of a codec: checks that raise OptionError."""

from __future__ import annotations

import importlib.util
import math
import numbers
from collections.abc import Iterable, Mapping
from fractions import Fraction

from sdcodec.errors import OptionError

MODES = ("latents", "palette")
METADATA_KINDS = frozenset({"icc", "exif", "xmp"})
MOST_BYTES = 1 << 62  # a larger budget is no tighter limit, and leaves the range of floating point
DIVISORS = {Fraction(1, divisor): divisor for divisor in (1, 2, 4, 8)}  # of the sides, by the scale of an image


def check_rate(
    quality: float | None,
    target_bytes: int | None = None,
    target_bpp: float | None = None,
    targets: Mapping[str, float | None] | None = None,
) -> None:
    """Check that at most one is given, within its range.

    targets: values of metrics by their names in `sdcodec.targets`. Raises OptionError.
    """
    targets = targets or {}
    if sum(value is not None for value in (quality, target_bytes, target_bpp, *targets.values())) > 1:
        raise OptionError("quality and the target_... options exclude each other; give one of them")
    check_number("quality", quality, "give 0 to 100")
    check_integer("target_bytes", target_bytes, "give a number of bytes")
    check_number("target_bpp", target_bpp, "give bits per pixel")
    if quality is not None and not 0 <= quality <= 100:
        raise OptionError(f"quality {quality} is outside 0..100")
    if target_bytes is not None and target_bytes < 1:
        raise OptionError(f"target_bytes {target_bytes} is not positive; give 1 or more")
    if target_bpp is not None and not 0 < target_bpp < math.inf:
        raise OptionError(f"target_bpp {target_bpp} is not positive and finite; give bits per pixel, such as 0.5")
    for name, value in targets.items():
        check_number(f"target_{name}", value, "give a value of the metric")
        if value is not None and not (math.isfinite(value) and (value > 0 or name == "ssimulacra2")):
            raise OptionError(f"target_{name} {value} is no value to reach; give a positive, finite one")
        if value is not None and name == "ssimulacra2" and not installed(name):
            raise OptionError("target_ssimulacra2 needs the package ssimulacra2; install sdcodec[ssimulacra2]")


def installed(module: str) -> bool:
    """Return whether a module can be imported."""
    return importlib.util.find_spec(module) is not None


def budget_of(target_bytes: int | None, target_bpp: float | None, pixels: int) -> int | None:
    """Return the budget in bytes of an image, or None if there is none.

    It is 0 if `target_bpp` amounts to less than a byte.
    """
    if target_bpp is not None:
        return math.floor(min(float(min(target_bpp, MOST_BYTES)) * pixels / 8, MOST_BYTES))
    return None if target_bytes is None else min(int(target_bytes), MOST_BYTES)


def check_mode(mode: str, quality: float | None, effort: int, targets: Mapping[str, float | None]) -> None:
    """Check a mode.

    A palette has neither quality nor targets of metrics nor effort. Raises OptionError.
    """
    if mode not in MODES:
        raise OptionError(f"mode {mode!r} is unknown; choose {' or '.join(MODES)}")
    wanted = [quality, *targets.values()]
    if mode == "palette" and (effort or any(value is not None for value in wanted)):
        raise OptionError("a palette has no quality and no effort; give target_bytes or target_bpp for fewer colours")


def check_denoising(num_steps: int, strength: float | None, seed: int) -> None:
    """Check each option of denoising. Raises OptionError."""
    check_integer("denoise", num_steps, "give a number of steps, 0 for none", optional=False)
    check_number("strength", strength, "give a factor from 0 up")
    check_integer("seed", seed, "give 0 to 2**63 - 1", optional=False)
    if num_steps < 0:
        raise OptionError(f"denoise {num_steps} is negative; give a number of steps, 0 for none")
    if strength is not None and not 0 <= strength < math.inf:
        raise OptionError(f"strength {strength} is not a factor from 0 up")
    if not 0 <= seed < 1 << 63:
        raise OptionError(f"seed {seed} is outside 0..2**63 - 1")


def pixel_limit(max_pixels: int | None, default: int) -> int:
    """Return a limit of pixels, or the default for None. Raises OptionError."""
    check_integer("max_pixels", max_pixels, "give a number of pixels")
    if max_pixels is None:
        return default
    if max_pixels < 1:
        raise OptionError(f"max_pixels {max_pixels} is not positive; give 1 or more, or leave it out")
    return max_pixels


def metadata_kinds(chosen: str | Iterable[str]) -> frozenset[str]:
    """Return the kinds of metadata to keep, out of METADATA_KINDS.

    chosen: "all", "none", kinds separated by commas, or several kinds. Raises OptionError.
    """
    remedy = "choose none, all, or some of icc, exif, xmp"
    if isinstance(chosen, str):
        if chosen in ("none", "all"):
            return METADATA_KINDS if chosen == "all" else frozenset()
        chosen = [part.strip() for part in chosen.split(",")]
    try:
        kinds = frozenset(chosen)
    except TypeError as error:  # no iterable, or one of lists
        raise OptionError(f"metadata {chosen!r} is not a collection of names; {remedy}") from error
    if unknown := kinds - METADATA_KINDS:
        raise OptionError(f"unknown metadata {', '.join(sorted(map(repr, unknown)))}; {remedy}")
    return kinds


def check_integer(name: str, value: object, remedy: str, *, optional: bool = True) -> None:
    """Check that a value is a whole number, of Python or NumPy.

    None passes if `optional`. Raises OptionError.
    """
    _check_kind(name, value, numbers.Integral, "whole number", remedy, optional)


def check_number(name: str, value: object, remedy: str) -> None:
    """Check that a value is a real number of Python or NumPy, or None.

    Raises OptionError.
    """
    _check_kind(name, value, numbers.Real, "number", remedy, True)


def _check_kind(name: str, value: object, kind: type, kind_name: str, remedy: str, optional: bool) -> None:
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, kind):
        raise OptionError(f"{name} {value!r} is not a {kind_name}; {remedy}")


def check_realism(realism: float | None, default: float | None) -> None:
    """Check a realism.

    `default` is that of the model, None if its decoder has none. Raises OptionError.
    """
    if realism is None:
        return
    check_number("realism", realism, "give 0 to 1")
    if not 0 <= realism <= 1:
        raise OptionError(f"realism {realism} is outside 0..1")
    if default is None:
        raise OptionError("this model's decoder has no realism to choose; leave --realism (realism) out")


def check_scale(scale: float | Fraction) -> int:
    """Return the divisor of the sides for a scale. Raises OptionError."""
    try:
        return DIVISORS[scale]  # type: ignore[index]  # a float that is equal has the same hash
    except (KeyError, TypeError) as error:
        raise OptionError(f"scale {scale!r} is none of 1, 1/2, 1/4 and 1/8; give 0.5, 0.25 or 0.125") from error
