"""Rate control: search for the best file within a byte budget."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache

from sdcodec.constants import QUALITY_LEVELS
from sdcodec.container import Container, block_count
from sdcodec.errors import BudgetError
from sdcodec.priors.rounding import Rounding

TYPICAL_SLOPE = 0.016  # growth of log(bytes) per quality index, on photographs
FIRST_GUESS = (-4.6, 0.016)  # log(bytes per pixel) at quality 0, and its growth per quality index
TARGET_GUESS = 90  # first quality index that is tried for a target
ALMOST_NOTHING = 1e-12
MOST_SECANTS = 5  # then the search for a target goes by halves
GROWTH_BY_THRESHOLD = 2.5  # of log(bytes), for a rounding threshold lower by 1; on the validation pictures
# Largest raise of the thresholds at quality 0. At 1, files are half as long and the
# images a blur; a larger raise saves nothing.
MOST_RAISED = 1.0
RAISES = 128  # increments of that raise
CORRECTIONS = 7  # largest number of such increments after a short estimate


@dataclass(frozen=True)
class Setting:
    """Settings that decide the size of a file: quality index and rounding."""

    quality_index: int
    rounding: Rounding

    def lower(self, by: float) -> Setting:
        """Return the setting with rounding thresholds lower by `by`."""
        return replace(self, rounding=self.rounding.lower(by))


def best_setting(
    budget: int, pixels: int, rounding: Rounding, estimate: Callable[[Setting], float], near: int | None = None
) -> Setting:
    """Return the setting of the highest quality whose estimated size fits the budget.

    The size is in bytes. If quality 0 does not fit, its thresholds are raised until it does. `near`: quality index at
    which the search begins. Raises BudgetError if even that is too large.
    """
    quality_index = largest_within(budget, pixels, lambda tried: estimate(Setting(tried, rounding)), near)
    if quality_index is not None:
        return Setting(quality_index, rounding)
    raised = [Setting(0, rounding.lower(-MOST_RAISED * raises / RAISES)) for raises in range(1, RAISES + 1)]
    least = estimate(raised[-1])
    if least > budget:
        raise too_few(budget, math.ceil(least))
    return raised[bisect_left(raised, True, hi=RAISES - 1, key=lambda tried: estimate(tried) <= budget)]


def coded_within(budget: int, setting: Setting, coded: Callable[[Setting], bytes]) -> tuple[bytes, Setting]:
    """Return the file that uses the budget best, near an estimated setting.

    `coded` makes the file of a setting. Raises BudgetError if none fits.
    """
    data = coded(setting)
    corrections = 0
    while len(data) > budget:  # the estimate was a few bytes short
        if setting.quality_index > 0:
            setting = replace(setting, quality_index=setting.quality_index - 1)
        elif corrections < CORRECTIONS:
            setting, corrections = setting.lower(-MOST_RAISED / RAISES), corrections + 1
        else:
            raise too_few(budget, len(data))
        data = coded(setting)
    return _filled(budget, setting, data, coded), setting


def _filled(budget: int, setting: Setting, data: bytes, coded: Callable[[Setting], bytes]) -> bytes:
    """Use the rest of the budget by rounding a few more latents away from zero.

    A lower threshold costs more than a higher quality does, but over a hundredth of the file it is worth its bytes.
    """
    best, growth = data, GROWTH_BY_THRESHOLD
    for attempt in range(3):
        wanted = math.log(budget / len(data)) - 0.0008 * (1 + attempt)  # a few bytes less than all, so that it fits
        if not len(best) / 400 < budget - len(best) < len(best) / 20 or wanted <= 0:
            break
        lowered = wanted / growth
        tried = coded(setting.lower(lowered))
        growth = max(0.5, math.log(len(tried) / len(data)) / lowered)
        if len(best) < len(tried) <= budget:
            best = tried
    return best


def largest_within(budget: int, pixels: int, estimate: Callable[[int], float], near: int | None = None) -> int | None:
    """Return the largest quality index whose estimated size fits the budget, or None.

    `estimate` is expensive and grows nearly exponentially, so the search goes along the secant of its logarithm. It
    ends when a quality fits and the next does not, or would not by the measured slope. It begins at `near`, if that
    is given.
    """
    target = math.log(max(budget, 1))  # no file fits 0 bytes either

    def excess(quality_index: int) -> float:
        """Return the logarithm of size over budget; above zero does not fit."""
        return math.log(max(1.0, estimate(quality_index))) - target

    guess = round((target - math.log(pixels) - FIRST_GUESS[0]) / FIRST_GUESS[1]) if near is None else near
    found = _last_within(excess, guess, TYPICAL_SLOPE, ends_early=True)
    return None if found < 0 else found


def lowest_reaching(excess: Callable[[int], float], slope: float, wavers: int) -> int | None:
    """Return the lowest quality index at which a value reaches its target, or None.

    excess: of the value over the target at an index, expensive and about evenly growing, by about `slope` per index. It
    has been called for the index that is returned, and for the highest if there is none. wavers: how many indices below
    the search looks, since a value that does not grow everywhere may reach its target there too.
    """
    seen = cache(excess)
    found = 1 + _last_within(lambda index: seen(index) or ALMOST_NOTHING, TARGET_GUESS, slope, ends_early=False)
    if found == QUALITY_LEVELS:
        return None
    lower = found
    while lower > max(0, found - wavers):
        lower -= 1
        if seen(lower) >= 0:
            found = lower
    return found


def _last_within(excess: Callable[[int], float], guess: int, typical: float, *, ends_early: bool) -> int:
    """Return the last quality index whose excess is not above 0, or -1.

    The search goes along the secant, from `guess`, with a slope near the `typical` one. It ends when an index is
    within and the next is not, or, with `ends_early`, would not be by the measured slope.
    """
    seen: dict[int, float] = {}
    low, high = -1, QUALITY_LEVELS  # within (or below everything), not within (or above everything)
    while high - low > 1:
        guess = min(max(guess, low + 1), high - 1)
        if guess not in seen:
            seen[guess] = excess(guess)
        over = seen[guess]
        if over > 0:
            high = guess
        else:
            low = guess
        slope = _slope(seen, typical)
        if ends_early and low == guess and over + 0.75 * slope > 0:
            break  # the next index would not fit
        if not ends_early and len(seen) > MOST_SECANTS:
            guess = (low + high) // 2
        elif over > 0:
            guess -= math.ceil(over / slope)
        else:
            guess += max(1, math.floor(-over / slope))
    return low


def most_within(budget: int, most: int, coded: Callable[[int], bytes]) -> bytes:
    """Return the file of the largest number in 1..`most` that fits, by bisection.

    `coded` makes the file of a number. Raises BudgetError if not even 1 fits.
    """
    best = coded(1)
    if len(best) > budget:
        raise too_few(budget, len(best))
    low, high = 1, most + 1  # fits, does not fit
    while high - low > 1:
        middle = (low + high) // 2
        data = coded(middle)
        if len(data) <= budget:
            low, best = middle, data
        else:
            high = middle
    return best


def too_few(budget: int, smallest: int) -> BudgetError:
    """Return the error for a budget that even the shortest file exceeds."""
    return BudgetError(_needs(budget, smallest) + "; give more", budget, smallest)


@contextmanager
def itemised(envelope: Container) -> Iterator[None]:
    """Let a BudgetError state the bytes of the file that are not latents.

    They are metadata, transparency and header. `envelope` is the file without its latents.
    """
    try:
        yield
    except BudgetError as error:
        chunks = [chunk for chunk in envelope.chunks() if chunk.tag not in "LP"]
        blocks = (b"",) * block_count(envelope.header.width, envelope.header.height, envelope.header.factor)
        header = len(replace(envelope, blocks=blocks).to_bytes()) - sum(len(chunk.payload) for chunk in chunks)
        parts = [f"{len(chunk.payload)} {chunk.name}" for chunk in chunks] + [f"{header} header and checksums"]
        metadata = any(chunk.tag in "iex" for chunk in chunks)
        remedy = "give more, or leave the metadata out" if metadata else "give more"
        needs = _needs(error.budget, error.needed)
        raise BudgetError(f"{needs}, of these {', '.join(parts)}; {remedy}", error.budget, error.needed) from error


def _needs(budget: int, smallest: int) -> str:
    return f"{budget} bytes are too few: this picture needs about {smallest} bytes with this model"


def _slope(seen: dict[int, float], typical: float) -> float:
    """Return the growth per index between the two points nearest 0."""
    nearest = sorted(seen, key=lambda quality_index: abs(seen[quality_index]))[:2]
    if len(nearest) < 2:
        return typical
    a, b = nearest
    return min(max((seen[a] - seen[b]) / (a - b), typical / 4), typical * 4)
