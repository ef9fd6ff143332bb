"""Schedule of a run, by a number of steps or by the clock."""

from __future__ import annotations

import time
from dataclasses import dataclass

from sdcodec.training.optim import rate_factor


@dataclass(frozen=True)
class Schedule:
    """Length of a run; exactly one of the two is above 0."""

    num_steps: int
    seconds: float

    def progress(self, step: int, seconds: float) -> float:
        """Return the share of the run that has passed, 0..1."""
        return min(1.0, step / self.num_steps if self.num_steps else seconds / self.seconds)

    def left(self, step: int, seconds: float, seconds_per_step: float) -> float:
        """Return the seconds that are left."""
        return (self.num_steps - step) * seconds_per_step if self.num_steps else max(0.0, self.seconds - seconds)

    def rate_factor(self, step: int, seconds: float, warmup: float, decay: float) -> float:
        """Return the factor of the learning rate of the next step.

        `warmup` and `decay` are shares of the run.
        """
        passed = self.progress(step, seconds)
        one = 1 / self.num_steps if self.num_steps else 0.0
        return rate_factor(passed + one, 1 - passed, warmup, decay)


class Clock:
    """Time spent on a run, without warming up; a resumed run restores it."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._since = time.monotonic()

    def start(self) -> None:
        """Count from now on."""
        self._since = time.monotonic()

    def tick(self, counts: bool = True) -> None:
        """Add the time since the last call, if it counts."""
        now = time.monotonic()
        self.seconds += (now - self._since) * counts
        self._since = now
