"""The search meets its budget in few steps."""

from __future__ import annotations

import math

import pytest

from sdcodec.errors import BudgetError
from sdcodec.ratecontrol import largest_within

PIXELS = 512 * 512


def curve(base: float, slope: float, bend: float = 0.0):
    calls: list[int] = []

    def estimate(half_steps: int) -> float:
        calls.append(half_steps)
        return 24 + base * math.exp(slope * half_steps + bend * math.sin(half_steps / 20))

    return estimate, calls


@pytest.mark.parametrize("base", [300, 900, 3000])
@pytest.mark.parametrize("slope", [0.01, 0.016, 0.022])
@pytest.mark.parametrize("bend", [0.0, 0.15])
@pytest.mark.parametrize("budget", [1500, 5000, 20_000])
def test_the_largest_quality_that_fits_is_found(base, slope, bend, budget):
    estimate, calls = curve(base, slope, bend)
    if estimate(0) > budget:
        with pytest.raises(BudgetError):
            largest_within(budget, PIXELS, estimate)
        return
    calls.clear()
    found = largest_within(budget, PIXELS, estimate)
    searched = len(calls)
    assert estimate(found) <= budget
    assert found == 200 or estimate(found + 1) > 0.99 * budget
    assert searched <= (10 if bend else 6)


def test_the_ends_are_reached():
    assert largest_within(10**9, PIXELS, curve(500, 0.016)[0]) == 200
    estimate, _ = curve(500, 0.016)
    assert largest_within(math.ceil(estimate(0)), PIXELS, estimate) == 0


def test_too_small_a_budget_names_what_is_needed():
    with pytest.raises(BudgetError, match="about 524"):
        largest_within(100, PIXELS, curve(500, 0.016)[0])
