"""Range coder: symbols grouped by table, coded by constriction.

Symbols outside a table are escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from sdcodec.coding.tables import TOTAL, FrequencyTables
from sdcodec.errors import FormatError

SYMBOL_LIMIT = 1 << 20
_LONGEST_ESCAPE = 21  # bits of the largest excess + 1 that SYMBOL_LIMIT allows
_CAUTION = 0.95  # of the escapes' expected bits: those beyond their end would be decoded again
_BIT = constriction.stream.model.Uniform(2)


def _model(tables: FrequencyTables, table: int) -> constriction.stream.model.Categorical:
    """Return constriction's model of one table, made once.

    constriction turns the integers into 24-bit ones by itself, deterministically.
    """
    cache: dict[int, constriction.stream.model.Categorical] = tables.__dict__.setdefault("_constriction_models", {})
    if table not in cache:
        # constriction gives every entry one 2**24th first and shares out the rest in proportion: with these weights the
        # outcome is exactly frequency * 2**8. `perfect` is passed explicitly: its default changed between versions.
        weights = tables.frequencies(table).astype(np.float64) * (1 << (24 - TOTAL.bit_length() + 1)) - 1
        cache[table] = constriction.stream.model.Categorical(weights, perfect=False)
    return cache[table]


def _groups(table_index: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield tables in ascending order, each with its positions in ascending order.

    Table 0 is left out.
    """
    if not len(table_index):
        return
    order = np.argsort(table_index.astype(np.uint8), kind="stable")  # of bytes: a radix sort, many times faster
    counts = np.bincount(table_index)
    ends = np.cumsum(counts)
    for table in np.flatnonzero(counts):
        if table != 0:
            yield int(table), order[ends[table] - counts[table] : ends[table]]


def _escape_bits(symbol: int, radius: int) -> list[int]:
    """Return Elias' gamma code of excess + 1, and the sign."""
    value = abs(symbol) - radius
    return [0] * (value.bit_length() - 1) + [int(bit) for bit in bin(value)[2:]] + [int(symbol < 0)]


def _parsed_escapes(bits: NDArray[np.int32], count: int) -> tuple[NDArray[np.int64], int, int]:
    """Parse at most `count` escapes at the front of the bits.

    Returns excess + 1 of each with the symbol's sign, their length in bits, and how many bits the next one lacks at
    least.
    """
    found = np.flatnonzero(bits).astype(np.int32)
    following = np.repeat(found, np.diff(found, prepend=np.int32(-1)))  # the next one, at each place
    # Zeros, a one, as many bits, and a sign. No one follows behind the known places.
    ends = (2 * following - np.arange(len(following), dtype=np.int32) + 2).data
    known, length, place, end = len(ends), len(bits), 0, 2
    starts: list[int] = []
    for _ in range(count):
        if place >= known or (end := ends[place]) > length:
            break
        starts.append(place)
        place = end
    if place >= known:
        end = 2 * length - place + 2
    firsts = following[starts].astype(np.int64)
    zeros = firsts - np.array(starts, np.int64)
    unfinished = (end - place) // 2 - 1 if len(starts) < count else 0
    if max(int(zeros.max(initial=0)), unfinished) >= _LONGEST_ESCAPE:
        raise FormatError("the entropy-coded data is damaged: an escape is too long")
    values = np.zeros(len(firsts), np.int64)
    for digit in range(int(zeros.max(initial=0)) + 1 if len(firsts) else 0):
        longer = zeros >= digit
        values[longer] = values[longer] << 1 | bits[firsts[longer] + digit]
    return np.where(bits[firsts + zeros + 1], -values, values), place, end - length


class SymbolEncoder:
    """Encoder of one stream of symbols; `finish` returns its bytes."""

    def __init__(self, tables: FrequencyTables) -> None:
        self._tables = tables
        self._coder = constriction.stream.queue.RangeEncoder()

    def encode(self, symbols: NDArray[np.int64], table_index: NDArray[np.int64]) -> None:
        """Append symbols `[N]` within ±2**20 under their tables `[N]`.

        Symbols under table 0 have to be zero.
        """
        escaped: list[NDArray[np.int64]] = []
        for table, positions in _groups(table_index):
            radius = int(self._tables.radius[table])
            chosen = symbols[positions]
            outside = np.abs(chosen) > radius
            places = np.where(outside, 2 * radius + 1, chosen + radius).astype(np.int32)
            self._coder.encode(places, _model(self._tables, table))
            if outside.any():
                escaped.append(positions[outside])
        if escaped:
            bits: list[int] = []
            for position in np.sort(np.concatenate(escaped)):
                bits += _escape_bits(int(symbols[position]), int(self._tables.radius[table_index[position]]))
            self._coder.encode(np.array(bits, dtype=np.int32), _BIT)

    def finish(self) -> bytes:
        """Return the fewest bytes that name a point inside the final interval.

        Trailing zeros are left out.
        """
        words = self._coder.get_compressed()
        if len(words):
            _, (lower, extent) = self._coder.pos()
            words[-1] = _roundest_word(int(words[-1]), int(lower), int(extent))
        return bytes(words.astype("<u4").byteswap().tobytes()).rstrip(b"\0")


def _roundest_word(last: int, lower: int, extent: int) -> int:
    """Return the final word with the most trailing zeros inside the interval.

    The interval is [lower, lower + extent) of 64 bits.
    """
    if last != ((lower + 0xFFFFFFFF) >> 32) & 0xFFFFFFFF or lower + extent > 1 << 64:
        return last  # the interval straddles a carry, or two words close it: leave what constriction wrote
    for zeros in range(32, 0, -1):
        unit = 1 << (32 + zeros)
        point = -(-lower // unit) * unit
        if point < lower + extent and point < 1 << 64:
            return point >> 32
    return last


class SymbolDecoder:
    """Decoder of one stream of symbols; its calls have to mirror the encoder's."""

    def __init__(self, data: bytes, tables: FrequencyTables) -> None:
        self._tables = tables
        padded = data + b"\0" * (-len(data) % 4)
        words = np.frombuffer(padded, dtype=">u4").astype(np.uint32)
        self._coder = self._guarded(constriction.stream.queue.RangeDecoder, words)

    def decode(self, table_index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Decode symbols `[N]` under their tables `[N]`.

        Raises FormatError if no encoder can have written the data.
        """
        symbols = np.zeros(len(table_index), dtype=np.int64)
        escaped: list[NDArray[np.int64]] = []
        for table, positions in _groups(table_index):
            radius = int(self._tables.radius[table])
            model = _model(self._tables, table)
            places = self._guarded(self._coder.decode, model, len(positions))
            outside = places == 2 * radius + 1
            symbols[positions] = places.astype(np.int64) - radius
            if outside.any():
                escaped.append(positions[outside])
        if escaped:
            places = np.sort(np.concatenate(escaped))
            excess = self._escapes(len(places))
            radii = self._tables.radius[table_index[places]].astype(np.int64)
            symbols[places] = excess + np.sign(excess) * radii
        return symbols

    def _escapes(self, count: int) -> NDArray[np.int64]:
        """Decode escapes: excess + 1, with the symbol's sign.

        Single bits take microseconds: a file full of escapes would take 30 times as long as a photograph. So as many
        bits are decoded together as will probably follow, by a copy of the decoder: it takes over unless the last
        escape ends earlier.
        """
        found = [np.zeros(0, np.int64)]
        bits = np.zeros(0, np.int32)
        certain = likely = 2 * count  # the shortest code has two bits
        while count:
            more = max(likely, certain)
            ahead = self._coder.clone()
            try:
                further = self._guarded(ahead.decode, _BIT, more)
            except FormatError:  # perhaps of data behind the escapes, which are no such bits
                if more == certain:
                    raise
                likely = more // 2
                continue
            values, used, missing = _parsed_escapes(np.concatenate([bits, further]), count)
            found.append(values)
            if len(values) == count:
                self._coder.decode(_BIT, used - len(bits))
                break
            self._coder, bits = ahead, np.concatenate([bits, further])[used:]
            count -= len(values)
            certain = missing + 2 * (count - 1)
            likely = int(_CAUTION * count * used / len(values)) - len(bits) if len(values) else certain
        return np.concatenate(found)

    @staticmethod
    def _guarded(call: Callable[..., Any], *arguments: Any) -> Any:
        """Call constriction; its errors over damaged data become a FormatError."""
        try:
            return call(*arguments)
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException as error:  # its panics are not of the class Exception
            raise FormatError("the entropy-coded data is damaged") from error
