"""The search meets its budget in few steps."""

from __future__ import annotations

import math

import pytest

from sdcodec.errors import BudgetError
from sdcodec.priors.rounding import PLAIN
from sdcodec.ratecontrol import MOST_RAISED, Setting, best_setting, coded_within, largest_within

PIXELS = 512 * 512


def curve(base: float, slope: float, bend: float = 0.0):
    calls: list[int] = []

    def estimate(quality_index: int) -> float:
        calls.append(quality_index)
        return 24 + base * math.exp(slope * quality_index + bend * math.sin(quality_index / 20))

    return estimate, calls


@pytest.mark.parametrize("base", [300, 900, 3000])
@pytest.mark.parametrize("slope", [0.01, 0.016, 0.022])
@pytest.mark.parametrize("bend", [0.0, 0.15])
@pytest.mark.parametrize("budget", [1500, 5000, 20_000])
def test_the_largest_quality_that_fits_is_found(base, slope, bend, budget):
    estimate, calls = curve(base, slope, bend)
    if estimate(0) > budget:
        assert largest_within(budget, PIXELS, estimate) is None
        return
    calls.clear()
    found = largest_within(budget, PIXELS, estimate)
    searched = len(calls)
    assert estimate(found) <= budget
    assert found == 200 or estimate(found + 1) > 0.99 * budget
    assert searched <= (10 if bend else 6)


def test_a_search_that_begins_near_ends_soon():
    estimate, calls = curve(900, 0.016, 0.15)
    found = largest_within(5000, PIXELS, estimate)
    calls.clear()
    assert largest_within(5000, PIXELS, estimate, found) == found and len(calls) <= 2
    assert largest_within(5000, PIXELS, estimate, 0) == largest_within(5000, PIXELS, estimate, 200) == found


def test_the_ends_are_reached():
    assert largest_within(10**9, PIXELS, curve(500, 0.016)[0]) == 200
    estimate, _ = curve(500, 0.016)
    assert largest_within(math.ceil(estimate(0)), PIXELS, estimate) == 0


def size(setting: Setting) -> float:
    """Return 524 bytes at quality 0 with plain rounding, 207 with raised thresholds."""
    return 24 + 500 * math.exp(0.016 * setting.quality_index + setting.rounding.lowered)


@pytest.mark.parametrize("budget", [210, 300, 523])
def test_below_quality_0_thresholds_are_raised_as_little_as_fits(budget):
    setting = best_setting(budget, PIXELS, PLAIN, size)
    assert setting.quality_index == 0 and -MOST_RAISED <= setting.rounding.lowered < 0
    assert 0.98 * budget < size(setting) <= budget


def test_where_quality_0_fits_no_threshold_is_raised():
    assert best_setting(525, PIXELS, PLAIN, size) == Setting(0, PLAIN)


def test_too_small_a_budget_names_what_is_needed():
    with pytest.raises(BudgetError, match="about 208"):
        best_setting(207, PIXELS, PLAIN, size)


@pytest.mark.parametrize("setting", [Setting(3, PLAIN), Setting(0, PLAIN)])
def test_files_longer_than_estimated_are_made_to_fit(setting):
    def coded(tried: Setting) -> bytes:
        return bytes(round(size(tried)))

    budget = round(size(setting)) - 10
    data, found = coded_within(budget, setting, coded)
    assert 0.99 * budget < len(data) <= budget
    assert (found.quality_index, found.rounding.lowered) < (setting.quality_index, 0.0)
    with pytest.raises(BudgetError):
        coded_within(20, setting, coded)
