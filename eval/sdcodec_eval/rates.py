"""Search for the highest quality of a codec whose file meets a size limit."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from sdcodec_eval.codecs.protocol import ImageCodec, Pixels

# File sizes are not monotonic in quality, so qualities above the result of the bisection are tried too.
MAX_NEIGHBOURS = 8
MAX_EXCESS = 1.15  # the trials end at a file longer than this multiple of the limit


@dataclass(frozen=True)
class Trial:
    """Encoded file, its quality, and the encoding time in seconds."""

    data: bytes
    quality: float
    seconds: float


def encode(codec: ImageCodec, pixels: Pixels, quality: float) -> Trial:
    """Encode an image and measure the time."""
    start = time.perf_counter()
    data = codec.encode(pixels, quality)
    return Trial(data, quality, time.perf_counter() - start)


class QualitySearch:
    """Quality search for one image and one codec; several limits share the trials.

    Ascending limits need the fewest trials.
    """

    def __init__(self, codec: ImageCodec, pixels: Pixels) -> None:
        self.codec, self.pixels = codec, pixels
        self._sizes: dict[int, int] = {}
        self._kept: dict[int, Trial] = {}  # only files that met a limit, to save memory

    def largest_within(self, limit: int) -> Trial | None:
        """Return the highest quality's file of at most `limit` bytes, or None."""
        count = len(self.codec.qualities)
        low = max((index for index, size in self._sizes.items() if size <= limit), default=-1)
        high = min((index for index, size in self._sizes.items() if size > limit and index > low), default=count)
        while high - low > 1:
            middle = self._between(low, high, limit)
            low, high = (middle, high) if self._size(middle, limit) <= limit else (low, middle)
        for index in range(high, min(high + MAX_NEIGHBOURS, count)):
            size = self._size(index, limit)
            if size <= limit:
                low = index
            elif size > MAX_EXCESS * limit:
                break
        if low < 0:
            return None
        return self._kept[low] if low in self._kept else self._encoded(low)

    def lowest(self) -> Trial:
        """Return the file of the lowest quality."""
        return self._kept[0] if 0 in self._kept else self._encoded(0)

    def _between(self, low: int, high: int, limit: int) -> int:
        """Return the next index, by log-linear interpolation of the size or the middle."""
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
