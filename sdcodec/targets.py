"""Targets of quality: a value of a metric that the decoded image has to reach."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from sdcodec import measures
from sdcodec.errors import OptionError, TargetError
from sdcodec.pixels import Picture, Pixels


@dataclass(frozen=True)
class Metric:
    """A metric that targets can be given for.

    scaled: of a value, what grows about evenly with the quality, by `slope` per quality index. wavers: over how many
    indices it may fall again, on small images (benchmarks/targets.py). smallest: side of an image, in pixels.
    """

    title: str
    measure: Callable[[Pixels, Pixels], float]
    scaled: Callable[[float], float]
    slope: float
    wavers: int
    smallest: int = 1
    unit: str = ""


METRICS = {
    "lpips": Metric("LPIPS", measures.lpips, lambda value: -math.log(max(value, 1e-9)), 0.015, 12, smallest=31),
    "psnr": Metric("PSNR", measures.psnr, lambda value: min(value, 1000.0), 0.08, 2, unit=" dB"),
    "ssimulacra2": Metric("SSIMULACRA 2", measures.ssimulacra2, lambda value: value, 0.4, 10, smallest=8),
}


class Target:
    """A target for one picture: measures decoded images against it.

    Both images are seen over white.
    """

    def __init__(self, name: str, value: float, picture: Picture) -> None:
        """Take a target that `sdcodec.options.check_rate` has checked.

        name: in METRICS. Raises OptionError for an image that is too small for the metric.
        """
        self.value, self._metric = value, METRICS[name]
        self._original, self._alpha = picture.over_white(), picture.alpha
        if min(self._original.shape[:2]) < self._metric.smallest:
            side = self._metric.smallest
            raise OptionError(
                f"{self._metric.title} takes images of at least {side} x {side} pixels; give a quality or a size"
            )
        self.slope, self.wavers = self._metric.slope, self._metric.wavers

    def measure(self, decoded: Pixels) -> float:
        """Return the metric's value for decoded pixels, uint8 `[H, W, 3]`."""
        return self._metric.measure(self._original, Picture(decoded, self._alpha).over_white())

    def excess(self, value: float) -> float:
        """Return how far a value is beyond the target; it is reached from 0 up."""
        return self._metric.scaled(value) - self._metric.scaled(self.value)

    def missed(self, best: float) -> TargetError:
        """Return the error for a target beyond the value of the highest quality."""
        title, unit = self._metric.title, self._metric.unit
        return TargetError(
            f"{title} {self.value:g}{unit} is out of reach: it is {best:.4g}{unit} at quality 100; "
            f"give a {'higher' if self.excess(math.inf) < 0 else 'lower'} one",
            self.value,
            best,
        )
