"""Entropy coding: symbols come back, bytes are few, damage is noticed."""

from __future__ import annotations

import numpy as np
import pytest

from sdcodec.coding.rangecoder import SYMBOL_LIMIT, SymbolDecoder, SymbolEncoder
from sdcodec.coding.tables import TOTAL, FrequencyTables, blended_tables, gaussian_tables, scales
from sdcodec.errors import BundleError, FormatError

TABLES = gaussian_tables(scales())


def drawn(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Symbols that their tables predict well, with a few that no table holds."""
    random = np.random.default_rng(seed)
    index = random.integers(0, 64, count)
    symbols = np.round(random.normal(0, scales()[index])).astype(np.int64)
    far = random.random(count) < 0.002
    symbols[far] = random.integers(-SYMBOL_LIMIT, SYMBOL_LIMIT, int(far.sum()))
    symbols[index == 0] = 0
    return symbols, index


def coded(batches: list[tuple[np.ndarray, np.ndarray]]) -> bytes:
    encoder = SymbolEncoder(TABLES)
    for symbols, index in batches:
        encoder.encode(symbols, index)
    return encoder.finish()


@pytest.mark.parametrize("count", [0, 1, 2, 100, 20_000])
def test_symbols_come_back(count):
    batches = [drawn(count, seed) for seed in range(3)]
    decoder = SymbolDecoder(coded(batches), TABLES)
    for symbols, index in batches:
        assert np.array_equal(decoder.decode(index), symbols)


@pytest.mark.parametrize("seed", range(200))
def test_the_shortened_end_still_decodes(seed):
    symbols, index = drawn(seed % 40, seed)
    assert np.array_equal(SymbolDecoder(coded([(symbols, index)]), TABLES).decode(index), symbols)


def test_real_length_is_near_the_ideal():
    symbols, index = drawn(20_000)
    ideal = TABLES.log2_cost(symbols, index) / 8
    assert ideal < len(coded([(symbols, index)])) < 1.001 * ideal + 5


def test_the_estimate_counts_every_escape():
    index = np.full(4, 20)
    radius = int(TABLES.radius[20])
    inside = TABLES.log2_cost(np.zeros(4, np.int64), index)
    assert TABLES.log2_cost(np.array([0, 0, 0, radius + 1]), index) > inside + 10


def test_nothing_is_spent_under_the_narrowest_table():
    assert coded([(np.zeros(1000, np.int64), np.zeros(1000, np.int64))]) == b""


def test_random_bytes_never_do_worse_than_a_format_error():
    random = np.random.default_rng(1)
    _, index = drawn(2000)
    for length in (0, 1, 3, 4, 50, 400):
        for _ in range(40):
            try:
                decoded = SymbolDecoder(random.bytes(length), TABLES).decode(index)
            except FormatError:
                continue
            assert np.abs(decoded).max() <= 2 * SYMBOL_LIMIT + 1024


def test_tables_are_whole_and_pack_without_loss():
    assert all(TABLES.frequencies(t).sum() == TOTAL and TABLES.frequencies(t).min() >= 1 for t in range(64))
    again = FrequencyTables.from_arrays(**TABLES.to_arrays())
    assert all(np.array_equal(again.frequencies(t), TABLES.frequencies(t)) for t in range(64))


def test_broken_tables_are_refused():
    arrays = TABLES.to_arrays()
    with pytest.raises(BundleError):
        FrequencyTables.from_arrays(arrays["radii"], arrays["frequencies"][:-1])
    arrays["frequencies"][5] += 1
    with pytest.raises(BundleError):
        FrequencyTables.from_arrays(**arrays)


def test_observation_pulls_tables_and_leaves_unseen_ones():
    counts = [np.zeros(2 * int(r) + 2) for r in TABLES.radius]
    counts[30][int(TABLES.radius[30])] = 1e6
    blended = blended_tables(TABLES, counts)
    middle = int(TABLES.radius[30])
    assert blended.frequencies(30)[middle] > 2 * TABLES.frequencies(30)[middle]
    assert np.array_equal(blended.frequencies(40), TABLES.frequencies(40))


@pytest.mark.parametrize("largest", [1, 3, 1000, (1 << 20) - 200])
def test_streams_of_escapes_alone_are_read_back(largest):
    rng = np.random.default_rng(largest)
    index = rng.integers(1, 64, 3000)
    excess = rng.integers(1, largest + 1, 3000)
    symbols = rng.choice([-1, 1], 3000) * (TABLES.radius[index].astype(np.int64) + excess)
    encoder = SymbolEncoder(TABLES)
    encoder.encode(symbols, index)
    encoder.encode(symbols[:5], index[:5])
    decoder = SymbolDecoder(encoder.finish(), TABLES)
    assert np.array_equal(decoder.decode(index), symbols)
    assert np.array_equal(decoder.decode(index[:5]), symbols[:5])


def test_an_escape_that_no_encoder_writes_is_refused():
    """After the table's escape come 21 zeros: beyond the limit of a symbol."""
    index = np.full(1, 5)
    encoder = SymbolEncoder(TABLES)
    encoder.encode(np.array([int(TABLES.radius[5]) + (1 << 21)]), index)
    with pytest.raises(FormatError, match="an escape is too long"):
        SymbolDecoder(encoder.finish(), TABLES).decode(index)
