"""Tests of the guard of a run: skipped steps, and signs of divergence."""

from __future__ import annotations

import math

import pytest
import torch

from sdcodec.training.guard import NormLimit, Watch
from sdcodec.training.session import Means

CPU = torch.device("cpu")


def counts(limit: NormLimit, *norms: float) -> list[bool]:
    return [bool(limit(torch.tensor(norm))) for norm in norms]


def test_steps_with_large_or_infinite_gradients_do_not_count() -> None:
    limit = NormLimit(CPU)
    assert all(counts(limit, *[2.0] * 30))
    assert counts(limit, 19.0, 1e6, math.nan, math.inf, 2.0) == [True, False, False, False, True]


def test_the_first_steps_count_unless_they_are_infinite() -> None:
    assert counts(NormLimit(CPU), 1.0, 1e4, math.nan, 3.0) == [True, True, False, True]


def test_the_limit_follows_a_lasting_change() -> None:
    limit = NormLimit(CPU)
    counts(limit, *[1.0] * 100)
    taken = counts(limit, *[50.0] * 40)
    assert not any(taken[:5]) and all(taken[-20:])


def test_the_limit_goes_on_from_a_checkpoint() -> None:
    first, second = NormLimit(CPU), NormLimit(CPU)
    counts(first, *[1.0] * 50)
    second.restore({name: value.clone() for name, value in first.state().items()})
    assert counts(second, 11.0, 9.0) == counts(first, 11.0, 9.0) == [False, True]


def line(norm: float = 1.0, loss: float = 5.0, skipped: float = 0.0) -> dict[str, float]:
    return {"gradient": norm, "loss": loss, "skipped": skipped}


@pytest.mark.parametrize(
    ("found", "complaint"),
    [
        (line(loss=math.nan), "loss not finite"),
        (line(norm=101.0), "gradient norm 101, median 1"),
        (line(loss=16.0), "loss 16, median 5"),
        (line(skipped=0.5), "50% of the steps skipped"),
        (line(norm=99.0, loss=14.0, skipped=0.2), ""),
    ],
)
def test_signs_of_divergence(found: dict[str, float], complaint: str) -> None:
    watch = Watch()
    assert [watch.complaint(line()) for _ in range(6)] == [""] * 6
    assert watch.complaint(found) == complaint
    watch.forget()
    assert watch.complaint(line(norm=101.0, loss=16.0)) == ""


def test_means_leave_skipped_steps_out() -> None:
    means = Means()
    for loss, skipped in ((4.0, 0.0), (0.0, 1.0), (2.0, 0.0), (0.0, 1.0)):
        means.add({"loss": torch.tensor(loss), "skipped": torch.tensor(skipped)})
    assert means.take() == {"loss": 3.0, "skipped": 0.5} and means.count == 0
