"""Guard a run against divergence.

Single steps are checked on the device, whole runs at each line of the log.
"""

from __future__ import annotations

import math
from collections import deque

import torch
from torch import Tensor

NORM_DECAY = 0.98  # of the running average of gradient norms, per step
NORM_FACTOR = 10.0  # times this average, a norm is too large
NORM_SETTLED = 0.3  # weight of the average at which it counts: 18 steps
LOG_MEMORY = 20  # lines whose medians count
LOG_SETTLED = 4  # lines before a median counts
LOG_NORM_FACTOR, LOG_LOSS_FACTOR = 100.0, 3.0
SKIPPED_SHARE = 0.25  # of the steps between two lines


class NormLimit:
    """Decide on the device which steps count, by the norms of their gradients.

    The update of Muon does not depend on the size of a gradient, so that a step with a wrong one does full harm.
    """

    def __init__(self, device: torch.device) -> None:
        self._mean, self._weight = torch.zeros((), device=device), torch.zeros((), device=device)

    def __call__(self, norm: Tensor) -> Tensor:
        """Return whether a step counts whose gradient has this norm.

        The norm has to be finite and at most 10 times the running average.

        A larger norm enters the average as the limit, so that the limit follows a lasting change.
        """
        finite = norm.isfinite()
        limit = NORM_FACTOR * self._mean / self._weight.clamp(min=1e-12)
        limit = torch.where(self._weight > NORM_SETTLED, limit, math.inf)
        entering = torch.where(finite, torch.minimum(norm, limit), 0.0)
        share = (1 - NORM_DECAY) * finite
        self._mean.add_(share * (entering - self._mean))
        self._weight.add_(share * (1 - self._weight))
        return finite & (norm <= limit)

    def state(self) -> dict[str, Tensor]:
        """Return the average, for a checkpoint."""
        return {"mean": self._mean, "weight": self._weight}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue with the average of a checkpoint."""
        self._mean.copy_(state["mean"])
        self._weight.copy_(state["weight"])


class Watch:
    """Compare each line of the log with the lines before."""

    def __init__(self) -> None:
        self._norms: deque[float] = deque(maxlen=LOG_MEMORY)
        self._losses: deque[float] = deque(maxlen=LOG_MEMORY)

    def complaint(self, means: dict[str, float]) -> str:
        """Return why a run has diverged, or an empty text, after a line with these means.

        The means are those of the steps that count; `skipped` is the share of the others.
        """
        norm, loss, skipped = means["gradient"], means["loss"], means["skipped"]
        if not all(math.isfinite(value) for value in means.values()):
            names = ", ".join(name for name, value in means.items() if not math.isfinite(value))
            return f"{names} not finite"
        if skipped > SKIPPED_SHARE:
            return f"{skipped:.0%} of the steps skipped"
        if len(self._norms) >= LOG_SETTLED:
            if norm > LOG_NORM_FACTOR * _median(self._norms):
                return f"gradient norm {norm:.3g}, median {_median(self._norms):.3g}"
            if loss > LOG_LOSS_FACTOR * _median(self._losses):
                return f"loss {loss:.3g}, median {_median(self._losses):.3g}"
        self._norms.append(norm)
        self._losses.append(loss)
        return ""

    def forget(self) -> None:
        """Begin anew, after a return to a checkpoint."""
        self._norms.clear()
        self._losses.clear()


def _median(values: deque[float]) -> float:
    return sorted(values)[len(values) // 2]
