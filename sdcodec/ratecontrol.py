"""The search for the best quality that meets a byte budget."""

from __future__ import annotations

import math
from collections.abc import Callable

from sdcodec.errors import BudgetError

HIGHEST = 200  # half steps
TYPICAL_SLOPE = 0.016  # growth of log(bytes) a half step, on photographs
FIRST_GUESS = (-4.6, 0.016)  # log(bytes a pixel) at quality 0, and its growth a half step


def largest_within(budget: int, pixels: int, estimate: Callable[[int], float]) -> int:
    """The largest quality, in half steps, whose estimated size in bytes is at most `budget`.

    `estimate` is expensive and grows nearly exponentially, so the search goes along the secant of its logarithm. It
    ends when a quality fits and the next does not, or would not by the slope seen. Raises BudgetError where quality 0
    is too large.
    """
    target = math.log(budget)
    seen: dict[int, float] = {}

    def excess(half_steps: int) -> float:
        """Logarithm of the size over the budget; above zero does not fit."""
        if half_steps not in seen:
            seen[half_steps] = math.log(max(1.0, estimate(half_steps))) - target
        return seen[half_steps]

    low, high = -1, HIGHEST + 1  # fits (or is below everything), does not fit (or is above everything)
    guess = round((target - math.log(pixels) - FIRST_GUESS[0]) / FIRST_GUESS[1])
    while high - low > 1:
        guess = min(max(guess, low + 1), high - 1)
        over = excess(guess)
        if over > 0:
            high = guess
        else:
            low = guess
        slope = _slope(seen)
        if low == guess and over + 0.75 * slope > 0:
            break  # the next half step would not fit
        guess = guess - math.ceil(over / slope) if over > 0 else guess + max(1, math.floor(-over / slope))
    if low < 0:
        raise too_few(budget, math.ceil(budget * math.exp(seen[0])))
    return low


def most_within(budget: int, most: int, coded: Callable[[int], bytes]) -> bytes:
    """What `coded` makes of the largest number in 1..`most` for which that is at most `budget` long, by bisection.

    Raises BudgetError where not even 1 fits.
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
    """The error for a budget that even quality 0 exceeds."""
    return BudgetError(f"{budget} bytes are too few: this picture needs about {smallest} with this model; give more")


def _slope(seen: dict[int, float]) -> float:
    """Growth of the logarithm a half step between the two points nearest to the budget."""
    nearest = sorted(seen, key=lambda half_steps: abs(seen[half_steps]))[:2]
    if len(nearest) < 2:
        return TYPICAL_SLOPE
    a, b = nearest
    return min(max((seen[a] - seen[b]) / (a - b), TYPICAL_SLOPE / 4), TYPICAL_SLOPE * 4)
