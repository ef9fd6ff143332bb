"""Reference decoder after docs/format.md (one file, to be read with that page).

It is plain Python and NumPy and shares no code with the library.
"""

from __future__ import annotations

import binascii
import zlib
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

Integers = NDArray[np.int64]
Place = tuple[slice, slice]  # rows and columns
Chunk = tuple[bytes, bytes, bytes]
MASK = (1 << 64) - 1


def decode(data: bytes, prior_file: Path) -> NDArray[np.int32]:
    """Decode the integers of section 5, `[C, h, w]`."""
    factor, quality, width, height, letter, chunk = parse(data)
    rows, columns = -(-height // (4 * factor)) * 4, -(-width // (4 * factor)) * 4
    tensors = load_file(prior_file)
    if letter == b"P":
        return palette(chunk[2], tensors["gain"].shape[1], rows, columns)
    model = AdaptiveModel(tensors) if "prior.size_edges" in tensors else Model(tensors, quality)
    places = [
        (slice(top, min(top + 64, rows)), slice(left, min(left + 64, columns)))
        for top in range(0, rows, 64)
        for left in range(0, columns, 64)
    ]
    for place, block in zip(places, split_blocks(chunk, len(places)), strict=True):
        model.block(block, place)  # alone
    return model.grid(rows, columns).astype(np.int32)


# Section 1


def parse(data: bytes) -> tuple[int, int, int, int, bytes, Chunk]:
    """Return pixels per latent, quality index, width, height, and the chunk L or P.

    The chunk is its letter, and its opening, check and payload.
    """
    assert data[:4] == b"\x89SDC" and data[4] & 0xF8 == 0x20
    factor, alpha = (8, 16, 32, 4)[data[4] & 3], bool(data[4] & 4)
    width, position = leb128(data, 10)
    height, position = leb128(data, position)
    assert data[position : position + 2] == crc16(data[:position])
    position += 2
    chunks = {}
    while data[position] != 0:
        start = position
        letter = data[start : start + 1]
        length, position = leb128(data, start + 1)
        opening, check = data[start:position], data[position : position + 2]
        position += 2
        chunks[letter] = opening, check, data[position : position + length]
        assert letter == b"L" or check == crc16(opening + chunks[letter][2])
        position += length
    assert zlib.crc32(data[: position + 1]) == int.from_bytes(data[position + 1 : position + 5], "big")
    assert not {letter for letter in chunks if letter.isupper()} - {b"L", b"P", b"A"}
    assert alpha == (b"A" in chunks)
    [letter] = {b"L", b"P"} & set(chunks)
    return factor, data[9], width, height, letter, chunks[letter]


def crc16(data: bytes) -> bytes:
    return binascii.crc_hqx(data, 0xFFFF).to_bytes(2, "big")


def leb128(data: bytes, position: int) -> tuple[int, int]:
    """Return a number and the position behind it."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position


# Section 2


def split_blocks(chunk: Chunk, count: int) -> Iterator[bytes]:
    opening, check, payload = chunk
    index, position = [], 0
    for _ in range(count):
        length = len(payload) - 2
        if count > 1:
            length, position = leb128(payload, position)
        index.append((length, payload[position : position + 2]))
        position += 2
    assert check == crc16(opening + payload[:position])
    for length, own_check in index:
        block = payload[position : position + length]
        assert crc16(block) == own_check
        yield block
        position += length
    assert position == len(payload)


def extent(place: Place) -> tuple[int, int]:
    return place[0].stop - place[0].start, place[1].stop - place[1].start


# Section 3


class RangeDecoder:
    def __init__(self, data: bytes) -> None:
        self.data, self.position = data, 0
        self.lower, self.range = 0, MASK
        self.point = self.word() << 32 | self.word()

    def word(self) -> int:
        chunk = self.data[self.position : self.position + 4].ljust(4, b"\0")
        self.position += 4
        return int.from_bytes(chunk, "big")

    def symbol(self, cumulative: Integers) -> int:
        scale = self.range >> 24
        quantile = ((self.point - self.lower) & MASK) // scale
        assert quantile < 1 << 24
        index = int(np.searchsorted(cumulative, quantile, side="right")) - 1
        low, high = int(cumulative[index]), int(cumulative[index + 1])
        self.lower = (self.lower + scale * low) & MASK
        self.range = scale * (high - low)
        if self.range < 1 << 32:
            self.lower = (self.lower << 32) & MASK
            self.range <<= 32
            self.point = (self.point << 32) & MASK | self.word()
        return index

    def bit(self) -> int:
        return self.symbol(np.array([0, 1 << 23, 1 << 24]))


class Tables:
    def __init__(self, radii: NDArray[np.uint16], frequencies: NDArray[np.uint16]) -> None:
        self.radii = radii.astype(np.int64)
        ends = np.cumsum(2 * self.radii + 2)
        parts = np.split(frequencies.astype(np.int64) * 256, ends[:-1])
        self.cumulative = [np.concatenate([[0], np.cumsum(part)]) for part in parts]

    def batch(self, decoder: RangeDecoder, tables: Integers) -> Integers:
        symbols = np.zeros(len(tables), np.int64)
        escaped = []
        for table in range(1, len(self.radii)):
            radius = self.radii[table]
            for position in np.flatnonzero(tables == table):
                index = decoder.symbol(self.cumulative[table])
                if index == 2 * radius + 1:
                    escaped.append(position)
                symbols[position] = index - radius
        for position in sorted(escaped):
            digits = 1
            while decoder.bit() == 0:
                digits += 1
            value = 1
            for _ in range(digits - 1):
                value = 2 * value + decoder.bit()
            size = value + self.radii[tables[position]]
            symbols[position] = -size if decoder.bit() else size
        return symbols


# Section 4.1


def fixed(value: Integers, multiplier: Integers, offset: Integers | int = 0) -> Integers:
    return (value * multiplier + offset + (1 << 23)) >> 24


def relu(x: Integers) -> Integers:
    return np.clip(x, 0, 127)


def signed(x: Integers) -> Integers:
    return np.clip(x, -127, 127)


def shuffle(x: Integers) -> Integers:
    channels, height, width = x.shape
    result = np.zeros((channels // 4, 2 * height, 2 * width), np.int64)
    for i in range(2):
        for j in range(2):
            result[:, i::2, j::2] = x[2 * i + j :: 4]
    return result


def seen(x: Integers, kernel: int) -> Integers:
    """`[C, h, w]` → `[C * kernel * kernel, h, w]`, zeros outside."""
    reach = kernel // 2
    padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach)))
    height, width = x.shape[1:]
    shifted = [padded[:, r : r + height, c : c + width] for r in range(kernel) for c in range(kernel)]
    return np.stack(shifted, axis=1).reshape(-1, height, width)


class Model:
    def __init__(self, tensors: dict[str, NDArray[np.generic]], quality: int) -> None:
        self.quality = quality
        self.tables = Tables(tensors["tables.radii"], tensors["tables.frequencies"])  # type: ignore[arg-type]
        prior = {name.removeprefix("prior."): value for name, value in tensors.items() if name.startswith("prior.")}
        self.tensors = {name: value.astype(np.int64) for name, value in prior.items() if not name.startswith("analyse")}
        self.channels = self.row("context_multiplier").shape[0]
        self.blocks: list[tuple[Place, Integers, Integers]] = []

    def row(self, name: str) -> Integers:
        tensor = self.tensors[name]
        return tensor[self.quality if len(tensor) == 201 else 0]

    def sums(self, name: str, x: Integers) -> Integers:
        return np.einsum("oi,ihw->ohw", self.tensors[f"{name}.weight"], x) + self.row(f"{name}.bias")[:, None, None]

    def layer(self, name: str, x: Integers) -> Integers:
        return self.sums(name, x) >> self.tensors[f"{name}.shift"][:, None, None]

    def block(self, data: bytes, place: Place) -> None:
        """Decode the symbols of a block, which needs nothing of others."""
        decoder = RangeDecoder(data)
        height, width = extent(place)
        hyper = self.hyper(decoder, height // 4, width // 4)
        symbols = np.zeros((self.channels, height, width), np.int64)

        def ask(mask: NDArray[np.bool_], table: Integers) -> Integers:
            symbols[mask] = self.tables.batch(decoder, table)
            return symbols[mask]

        self.passes(self.features(hyper), ask)
        self.blocks.append((place, hyper, symbols))

    def grid(self, rows: int, columns: int) -> Integers:
        """Return values of the whole grid; means see across the borders of blocks."""
        hyper = np.zeros((len(self.row("hyper_mean")), rows // 4, columns // 4), np.int64)
        symbols = np.zeros((self.channels, rows, columns), np.int64)
        for (own_rows, own_columns), x, own in self.blocks:
            hyper[:, own_rows.start // 4 : own_rows.stop // 4, own_columns.start // 4 : own_columns.stop // 4] = x
            symbols[:, own_rows, own_columns] = own
        return self.passes(self.features(hyper), lambda mask, table: symbols[mask])

    def passes(self, features: Integers, ask: Callable[[NDArray[np.bool_], Integers], Integers]) -> Integers:
        """Return the values; `ask` gives the symbols at the places of a mask."""
        height, width = features.shape[1:]
        row, column = np.mgrid[0:height, 0:width] % 2
        rank = np.array([[0, 2], [3, 1]])[row, column]
        group = np.arange(self.channels) * 4 // self.channels
        values = np.zeros((self.channels, height, width), np.int64)
        context = np.zeros_like(values)
        row, column = np.mgrid[0:height, 0:width] // 2 % 2
        cell = np.array([[0, 2], [3, 1]])[row, column]
        parts = 4 if "pass4.entry.weight" in self.tensors else 1
        for k in range(3 + parts):
            mask = rank[None] == ((max(k - parts + 1, 0) + group) % 4)[:, None, None]
            if parts == 4 and k < 4:
                mask &= cell == k
            channel = np.nonzero(mask)[0]
            sums = self.one_pass(k, context, features, rank)
            offset: Integers | int = 0
            if f"pass{k}.direct.weight" in self.tensors:
                kernel = round((self.tensors[f"pass{k}.direct.weight"].shape[1] / self.channels) ** 0.5)
                direct = self.sums(f"pass{k}.direct", seen(context, kernel))[mask]
                offset = direct * self.row(f"pass{k}.direct_multiplier")[channel]
            mean = fixed(sums[: self.channels][mask], self.row(f"pass{k}.mean_multiplier")[channel], offset)
            mean = np.clip(mean, -(1 << 19), 1 << 19)
            multiplier = self.tensors[f"pass{k}.table_multiplier"][0][channel]
            table = fixed(sums[self.channels :][mask], multiplier, self.row("table_offset")[channel])
            values[mask] = 16 * ask(mask, np.clip(table, 0, 63)) + mean
            context[mask] = signed(fixed(values[mask], self.row("context_multiplier")[channel]))
        return values

    def features(self, x: Integers) -> Integers:
        for name in ("synthesise_1", "synthesise_2"):
            x = relu(shuffle(self.layer(name, seen(x, 3))))
        return relu(self.layer("synthesise_3", seen(x, 3)) + x)

    def hyper(self, decoder: RangeDecoder, height: int, width: int) -> Integers:
        """Activations, `[Z, h/4, w/4]`."""
        channels = len(self.row("hyper_mean"))
        x = np.zeros((channels, height, width), np.int64)
        group = (np.arange(channels) * 4 // channels)[:, None, None]
        row, column = np.mgrid[0:height, 0:width] % 2
        rank = np.array([[0, 2], [3, 1]])[row, column][None]
        passes = 4 if "hyper1.entry.weight" in self.tensors else 1
        for k in range(passes):
            mask = (rank == (k + group) % 4) if passes == 4 else np.ones(x.shape, bool)
            channel = np.nonzero(mask)[0]
            mean, table = self.row("hyper_mean")[channel], self.row("hyper_table")[channel]
            if k > 0:
                sums = self.sums(f"hyper{k}.head", relu(self.layer(f"hyper{k}.entry", seen(x, 3))))
                mean = mean + fixed(sums[:channels][mask], self.row(f"hyper{k}.mean_multiplier")[channel])
                multiplier = self.tensors[f"hyper{k}.table_multiplier"][0][channel]
                table = np.clip(fixed(sums[channels:][mask], multiplier, self.row("hyper_offset")[channel]), 0, 63)
            values = 16 * self.tables.batch(decoder, table) + mean
            x[mask] = signed(fixed(values, self.row("hyper_multiplier")[channel]))
        return x

    def one_pass(self, k: int, context: Integers, features: Integers, rank: Integers) -> Integers:
        """Return the sums of the head, `[2C, h, w]`."""
        name = f"pass{k}"
        inputs = features
        if k > 0:
            fan_in = self.tensors[f"{name}.entry.weight"].shape[1]
            kernel = round(((fan_in - len(features)) / self.channels) ** 0.5)
            inputs = np.concatenate([seen(context, kernel), features])
        x = self.sums(f"{name}.entry", inputs) + self.tensors[f"{name}.cell"][rank].transpose(2, 0, 1)
        x = relu(x >> self.tensors[f"{name}.entry.shift"][:, None, None])
        b = 0
        while f"{name}.expand{b}.weight" in self.tensors:
            x = signed(x + self.layer(f"{name}.project{b}", relu(self.layer(f"{name}.expand{b}", x))))
            b += 1
        return self.sums(f"{name}.head", x)


# Section 4.2

LATTICES = ((0, 0, 4, 2), (2, 2, 4, 2), (0, 2, 4, 2), (2, 0, 4, 2), (1, 1, 2, 1), (0, 1, 2, 1), (1, 0, 2, 1))


class AdaptiveModel:
    def __init__(self, tensors: dict[str, NDArray[np.generic]]) -> None:
        self.tables = Tables(tensors["tables.radii"], tensors["tables.frequencies"])  # type: ignore[arg-type]
        prior = {name.removeprefix("prior."): value for name, value in tensors.items() if name.startswith("prior.")}
        self.tensors = {name: value.astype(np.int64) for name, value in prior.items()}
        self.channels = (len(self.tensors["side_table"]) - 8) // 2
        self.blocks: list[tuple[Place, int, Integers, Integers]] = []

    def block(self, data: bytes, place: Place) -> None:
        """Decode the symbols of a block, which needs nothing of others."""
        t, count = self.tensors, self.channels
        height, width = extent(place)
        decoder = RangeDecoder(data)
        numbers = self.tables.batch(decoder, t["side_table"]) + t["side_middle"]
        regime = min(max(int(numbers[0]), 0), len(t["mean_weights"]) - 1)
        lattice_offset, channel_offset = np.clip(numbers[1:8], -63, 63), np.clip(numbers[8 : 8 + count], -63, 63)
        centre = np.clip(numbers[8 + count :], -(1 << 14), 1 << 14)
        values = np.zeros((count, height, width), np.int64)
        signed_symbols = np.zeros_like(values)
        for m, (first_row, first_column, stride, reach) in enumerate(LATTICES):
            rows, columns = range(first_row, height, stride), range(first_column, width, stride)
            sizes = np.abs(signed_symbols)
            every, level = 256 * sizes.sum(0) // count, 16 * np.abs(values).sum(0) // count
            means, tables = [], []
            for channel in range(count):
                for row, column in product(rows, columns):
                    beside, over, across = around(values[channel], row, column, reach)
                    b = t["size_weights"][regime, m]
                    own, all_own, all_level = (
                        sum(around(plane, row, column, reach)) for plane in (sizes[channel], every, level)
                    )
                    size = int(b[1]) * 256 * own + int(b[2]) * all_own + int(b[3]) * all_level
                    size = int(b[0]) + ((size + int(b[4]) * 16 * abs(beside - over)) >> 8)
                    table = int((t["size_edges"] <= size).sum()) + lattice_offset[m] + channel_offset[channel]
                    means.append(self.mean(regime, m, beside, over, across))
                    tables.append(min(max(table, 1), 63))
            symbols = self.tables.batch(decoder, np.array(tables)).reshape(count, -1)
            decoded = 16 * symbols + np.array(means).reshape(count, -1)
            for index, (row, column) in enumerate(product(rows, columns)):
                values[:, row, column], signed_symbols[:, row, column] = decoded[:, index], symbols[:, index]
        self.blocks.append((place, regime, centre, signed_symbols))

    def mean(self, regime: int, m: int, beside: int, over: int, across: int) -> int:
        a = self.tensors["mean_weights"][regime, m]
        mean = (int(a[0]) * beside + int(a[1]) * over + int(a[2]) * across + (1 << 9)) >> 10
        return min(max(mean, -(1 << 19)), 1 << 19)

    def grid(self, rows: int, columns: int) -> Integers:
        """Return values of the whole grid; means see across the borders of blocks."""
        values, known = np.zeros((self.channels, rows, columns), np.int64), np.zeros((rows, columns), np.int64)
        for m, (first_row, first_column, stride, reach) in enumerate(LATTICES):
            decoded = values.copy()  # a pass sees nothing of itself
            for (own_rows, own_columns), regime, centre, symbols in self.blocks:
                rows_here = range(own_rows.start + first_row, own_rows.stop, stride)
                columns_here = range(own_columns.start + first_column, own_columns.stop, stride)
                for channel in range(self.channels):
                    plane = (values[channel] - 16 * centre[channel]) * known
                    for row, column in product(rows_here, columns_here):
                        mean = self.mean(regime, m, *around(plane, row, column, reach))
                        symbol = symbols[channel, row - own_rows.start, column - own_columns.start]
                        decoded[channel, row, column] = 16 * (symbol + centre[channel]) + mean
            values = decoded
            known[first_row::stride, first_column::stride] = 1
        return values


def around(plane: Integers, row: int, column: int, reach: int) -> tuple[int, int, int]:
    """Return the sums of the neighbours beside, over and across."""
    height, width = plane.shape
    above, below = opposite(row, reach, height)
    left, right = opposite(column, reach, width)
    beside = plane[row, left] + plane[row, right]
    over = plane[above, column] + plane[below, column]
    across = plane[[above, above, below, below], [left, right, left, right]].sum()
    return int(beside), int(over), int(across)


def opposite(place: int, reach: int, size: int) -> tuple[int, int]:
    """Return the neighbours before and after; an outside one becomes the other."""
    before, after = place - reach, place + reach
    return (after if before < 0 else before), (before if after >= size else after)


# Section 8


def palette(payload: bytes, channels: int, rows: int, columns: int) -> NDArray[np.int32]:
    """Decode the integers of a chunk P."""
    colours, unit = payload[0] + 1, 256 * payload[1] + payload[2]
    offsets = [int.from_bytes(payload[3 + 2 * c : 5 + 2 * c], "big", signed=True) for c in range(channels)]
    inflated = zlib.decompress(payload[3 + 2 * channels :], -15)
    assert len(inflated) == channels * colours + rows * columns
    entries = []
    for c in range(channels):
        value, line = 0, []
        for difference in inflated[c * colours : (c + 1) * colours]:
            value = (value + difference) % 256
            line.append(16 * offsets[c] + value * unit)
        entries.append(line)
    chosen = np.frombuffer(inflated[channels * colours :], np.uint8).reshape(rows, columns)
    return np.array(entries, np.int32)[:, chosen]
