"""Equal bytes: the largest quality of a codec whose real file is not longer than it may be."""

from __future__ import annotations

from sdcodec_eval.codecs.protocol import ImageCodec, Pixels

NEIGHBOURS = 6  # sizes are not quite monotonic in quality: so many more are tried above the largest that fits


class QualitySearch:
    """One picture and one codec. Sizes are remembered, so that several budgets share their trials."""

    def __init__(self, codec: ImageCodec, pixels: Pixels) -> None:
        self.codec, self.pixels = codec, pixels
        self._sizes: dict[int, int] = {}

    def largest_within(self, limit: int) -> float | None:
        """The largest quality whose file has at most `limit` bytes; None where even the lowest is longer."""
        qualities = self.codec.qualities
        low, high = -1, len(qualities)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._size(middle) <= limit else (low, middle)
        for index in range(high, min(high + NEIGHBOURS, len(qualities))):
            if self._size(index) <= limit:
                low = index
        return qualities[low] if low >= 0 else None

    def _size(self, index: int) -> int:
        if index not in self._sizes:
            self._sizes[index] = len(self.codec.encode(self.pixels, self.codec.qualities[index]))
        return self._sizes[index]
