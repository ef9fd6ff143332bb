"""Equal bytes: the largest quality of a codec whose real file is not longer than it may be."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from sdcodec_eval.codecs.protocol import ImageCodec, Pixels

# Sizes are not quite monotonic in quality, so more are tried above the largest that fits: at most so many, and no
# further than a file this much longer than it may be.
NEIGHBOURS = 8
NEARLY = 1.15


@dataclass(frozen=True)
class Trial:
    """A file, its quality, and the seconds that encoding took."""

    data: bytes
    quality: float
    seconds: float


def encode(codec: ImageCodec, pixels: Pixels, quality: float) -> Trial:
    """One file."""
    start = time.perf_counter()
    data = codec.encode(pixels, quality)
    return Trial(data, quality, time.perf_counter() - start)


class QualitySearch:
    """One picture and one codec. Trials are remembered, so that several limits share them; best asked in ascending order."""

    def __init__(self, codec: ImageCodec, pixels: Pixels) -> None:
        self.codec, self.pixels = codec, pixels
        self._sizes: dict[int, int] = {}
        self._kept: dict[int, Trial] = {}  # files that were short enough; long ones would fill the memory

    def largest_within(self, limit: int) -> Trial | None:
        """The file of the largest quality that has at most `limit` bytes; None where even the lowest is longer."""
        count = len(self.codec.qualities)
        low = max((index for index, size in self._sizes.items() if size <= limit), default=-1)
        high = min((index for index, size in self._sizes.items() if size > limit and index > low), default=count)
        while high - low > 1:
            middle = self._between(low, high, limit)
            low, high = (middle, high) if self._size(middle, limit) <= limit else (low, middle)
        for index in range(high, min(high + NEIGHBOURS, count)):
            size = self._size(index, limit)
            if size <= limit:
                low = index
            elif size > NEARLY * limit:
                break
        if low < 0:
            return None
        return self._kept[low] if low in self._kept else self._encoded(low)

    def lowest(self) -> Trial:
        """The file of the lowest quality."""
        return self._kept[0] if 0 in self._kept else self._encoded(0)

    def _between(self, low: int, high: int, limit: int) -> int:
        """An index to try next: where the logarithm of the size would meet the limit if it were linear, or the middle."""
        sizes = self._sizes.get(low), self._sizes.get(high)
        if sizes[0] is None or sizes[1] is None or high - low < 4:
            return (low + high) // 2
        share = math.log(limit / sizes[0]) / math.log(sizes[1] / sizes[0])
        return min(max(low + round(share * (high - low)), low + 1), high - 1)

    def _size(self, index: int, limit: int) -> int:
        if index not in self._sizes:
            trial = self._encoded(index)
            self._sizes[index] = len(trial.data)
            if len(trial.data) <= limit:
                self._kept[index] = trial
        return self._sizes[index]

    def _encoded(self, index: int) -> Trial:
        return encode(self.codec, self.pixels, self.codec.qualities[index])
