"""Tests of the schedule by steps and by the clock."""

from __future__ import annotations

import pytest

from sdcodec.training import schedule
from sdcodec.training.schedule import Clock, Schedule


def test_a_run_by_steps_rises_stays_and_falls() -> None:
    run = Schedule(10, 0.0)
    factors = [run.rate_factor(step, 1e6, 0.2, 0.4) for step in range(10)]
    assert factors == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25])
    assert [run.progress(step, 1e6) for step in (0, 5, 10, 11)] == [0, 0.5, 1, 1]


def test_a_run_by_the_clock_does_not_count_steps() -> None:
    run = Schedule(0, 100.0)
    factors = [run.rate_factor(10**6, seconds, 0.2, 0.4) for seconds in (0, 10, 20, 60, 80, 100)]
    assert factors == pytest.approx([0, 0.5, 1, 1, 0.5, 0])
    assert run.progress(10**6, 50.0) == 0.5 and run.progress(1, 101.0) == 1


def test_the_clock_leaves_out_warming_up(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 5.0, 7.0, 17.0, 18.0])
    monkeypatch.setattr(schedule.time, "monotonic", lambda: next(times))
    clock = Clock()
    clock.start()
    clock.tick()
    clock.tick(counts=False)
    clock.tick()
    assert clock.seconds == 3.0
