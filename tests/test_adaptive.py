"""The adaptive prior: exact in all circumstances, and worth its parameters."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch

from sdcodec.errors import BundleError, FormatError
from sdcodec.priors.adaptive import AdaptivePrior
from sdcodec.priors.adaptive_tables import adaptive_config, adaptive_prior_tensors
from sdcodec.priors.lattices import LATTICES, lattice
from sdcodec.priors.sources import Coder, CostEstimator, Decoder

CPU = torch.device("cpu")


def prior(channels: int) -> AdaptivePrior:
    return AdaptivePrior(adaptive_config(channels), *adaptive_prior_tensors(channels), CPU)


def smooth(batch: int, channels: int, height: int, width: int, size: float = 2.0, seed: int = 0) -> torch.Tensor:
    """Make scaled latents: a smooth field of changing contrast, and noise."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.randn(batch, channels, height // 4 + 1, width // 4 + 1, generator=random)
    contrast = torch.randn(batch, 1, height // 4 + 1, width // 4 + 1, generator=random).exp()
    field = torch.nn.functional.interpolate(coarse * contrast, (height, width), mode="bicubic")
    return size * (field + 0.3 * torch.randn(field.shape, generator=random))


def encoded(own: AdaptivePrior, scaled: torch.Tensor) -> tuple[torch.Tensor, list[bytes]]:
    coder = Coder(scaled, own.hyper_latents(scaled, 100), own.tables)
    values = own.walk((scaled.shape[0], *scaled.shape[2:]), 100, coder)
    return values, [block for [block] in coder.finish()]


def decoded(own: AdaptivePrior, blocks: list[bytes], height: int, width: int) -> torch.Tensor:
    return own.walk((len(blocks), height, width), 100, Decoder([[block] for block in blocks], own.tables, CPU))


@pytest.mark.parametrize("channels", [3, 4, 16, 32, 128])
@pytest.mark.parametrize("size", [(4, 4), (8, 20), (64, 64)])
def test_decoding_mirrors_encoding(channels, size):
    own, scaled = prior(channels), smooth(2, channels, *size)
    values, blocks = encoded(own, scaled)
    assert torch.equal(decoded(own, blocks, *size), values)
    assert (values.float() / 16 - scaled).abs().max() <= 0.5 + 1 / 16


@pytest.mark.parametrize(
    "scaled",
    [
        torch.zeros(1, 4, 16, 16),
        torch.full((1, 4, 16, 16), 37.3),
        torch.full((1, 4, 16, 16), -9e4),
        1e5 * torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1)),
        torch.zeros(1, 4, 16, 16).index_fill_(3, torch.tensor([7]), 5e4),
        1e-3 * torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1)),
    ],
    ids=["zeros", "constant", "constant beyond the centre's range", "huge", "a line", "below a step"],
)
def test_constant_and_extreme_latents_come_back(scaled):
    own = prior(4)
    values, blocks = encoded(own, scaled)
    assert torch.equal(decoded(own, blocks, 16, 16), values)
    assert (values.double() / 16 - scaled.double()).abs().max() <= 0.5 + 1 / 16


def test_constant_latents_cost_almost_nothing():
    _, [block] = encoded(prior(4), torch.full((1, 4, 64, 64), 12.0))
    assert len(block) < 40


def test_symbols_beyond_the_limit_are_cut_off_not_garbled():
    own = prior(4)
    values, blocks = encoded(own, torch.full((1, 4, 8, 8), 1e9))
    assert torch.equal(decoded(own, blocks, 8, 8), values)


def test_symbols_do_not_depend_on_the_batch():
    own, scaled = prior(8), smooth(5, 8, 16, 24)
    together, blocks = encoded(own, scaled)
    for i in range(5):
        alone, [block] = encoded(own, scaled[i : i + 1])
        assert torch.equal(alone[0], together[i])
        assert block == blocks[i]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("mkldnn", [True, False])
@pytest.mark.parametrize("autocast", [True, False])
def test_symbols_do_not_depend_on_the_circumstances(threads, mkldnn, autocast):
    own = prior(8)
    expected, blocks = encoded(own, smooth(2, 8, 16, 24))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        with torch.backends.mkldnn.flags(enabled=mkldnn), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found = decoded(own, blocks, 16, 24)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found, expected)


def test_a_fresh_process_decodes_the_same():
    values, [block] = encoded(prior(4), smooth(1, 4, 16, 16))
    program = f"""
import hashlib, torch
from sdcodec.priors.adaptive import AdaptivePrior
from sdcodec.priors.adaptive_tables import adaptive_config, adaptive_prior_tensors
from sdcodec.priors.sources import Decoder
cpu = torch.device("cpu")
own = AdaptivePrior(adaptive_config(4), *adaptive_prior_tensors(4), cpu)
values = own.walk((1, 16, 16), 0, Decoder([[bytes.fromhex("{block.hex()}")]], own.tables, cpu))
print(hashlib.sha256(values.numpy().tobytes()).hexdigest())
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    assert found == hashlib.sha256(values.numpy().tobytes()).hexdigest()


def test_damaged_data_never_crashes():
    own = prior(4)
    _, [block] = encoded(own, smooth(1, 4, 16, 16))
    random = np.random.default_rng(0)
    for trial in range(60):
        damaged = bytearray(block if trial % 3 else random.bytes(len(block)))
        for place in random.integers(len(damaged), size=3):
            damaged[place] ^= int(random.integers(1, 256))
        cut = bytes(damaged[: int(random.integers(len(damaged)))]) if trial % 2 else bytes(damaged)
        try:
            values = decoded(own, [cut], 16, 16)
        except FormatError:
            continue
        assert values.abs().max() < 1 << 26  # garbage, but garbage within the limits of symbols and means


def test_the_estimate_is_the_length():
    own, scaled = prior(8), smooth(1, 8, 64, 64)
    estimator = CostEstimator(scaled, own.hyper_latents(scaled, 0), own.tables)
    own.walk((1, 64, 64), 0, estimator)
    _, [block] = encoded(own, scaled)
    assert abs(len(block) - estimator.bits / 8) < 0.002 * len(block) + 4


def test_it_beats_the_entropy_of_each_channel():
    own, scaled = prior(8), smooth(1, 8, 64, 64)
    _, [block] = encoded(own, scaled)
    ideal = 0.0
    for channel in scaled[0].round():
        _, counts = np.unique(channel.numpy(), return_counts=True)
        ideal -= float((counts * np.log2(counts / counts.sum())).sum()) / 8
    assert len(block) < 0.94 * ideal


def test_parameters_are_worth_their_bits():
    """Channels of very different size: offsets of the channels must pay."""
    own = prior(4)
    scaled = smooth(1, 4, 64, 64) * torch.tensor([0.4, 1.0, 2.0, 4.0])[:, None, None]
    [chosen] = own.hyper_latents(scaled, 0)
    plain = chosen.clone()
    plain[:, 1:12] = 0
    bits = []
    for parameters in (chosen, plain):
        estimator = CostEstimator(scaled, [parameters], own.tables)
        own.walk((1, 64, 64), 0, estimator)
        bits.append(estimator.bits)
    assert bits[0] < 0.99 * bits[1]


def test_lattices_cover_every_position_once_between_earlier_ones():
    height, width = 12, 8
    seen = torch.zeros(height, width, dtype=torch.bool)
    for index in range(len(LATTICES)):
        place = lattice(index, height, width, CPU)
        own = torch.zeros_like(seen)
        own[place.rows[:, None], place.columns] = True
        assert not (seen & own).any()
        if index:  # each but the first has all of its row and column, or of its diagonals, before it
            whole = place.beside(seen.long()) + place.over(seen.long()), place.across(seen.long())
            assert any((found == 4).all() for found in whole)
        seen |= own
    assert seen.all()


def test_a_missing_tensor_is_named():
    tensors, tables = adaptive_prior_tensors(4)
    del tensors["size_edges"]
    with pytest.raises(BundleError, match="size_edges"):
        AdaptivePrior(adaptive_config(4), tensors, tables, CPU)
