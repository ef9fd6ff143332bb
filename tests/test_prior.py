"""The integer prior: exact in all circumstances, and close to its trained network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from conftest import SMALL_PRIOR
from sdcodec.coding.tables import gaussian_tables, scales
from sdcodec.constants import QUALITY_LEVELS
from sdcodec.errors import BundleError
from sdcodec.priors.integer import scaled
from sdcodec.priors.learned import LearnedPrior
from sdcodec.priors.passes import PASSES, PASSES_IN_PARTS, pass_lines, pass_masks
from sdcodec.priors.sources import Coder, CostEstimator, Decoder
from sdcodec.training.export import prior_tensors, quality_rows

TABLES = gaussian_tables(scales())
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def prior(random_model):
    return LearnedPrior(SMALL_PRIOR, prior_tensors(random_model.prior), TABLES, CPU)


def latents(batch: int, height: int = 16, width: int = 24, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 6 * torch.randn(batch, 8, height, width, generator=generator)


def encoded(prior, scaled, quality_index):
    coder = Coder(scaled, prior.hyper_latents(scaled, quality_index), TABLES)
    decoded = prior.walk((scaled.shape[0], scaled.shape[2], scaled.shape[3]), quality_index, coder)
    return decoded, [block for [block] in coder.finish()]


@pytest.mark.parametrize("quality_index", [0, 77, 200])
def test_decoding_mirrors_encoding(prior, quality_index):
    scaled = latents(3)
    written, blocks = encoded(prior, scaled, quality_index)
    read = prior.walk((3, 16, 24), quality_index, Decoder([[block] for block in blocks], TABLES, CPU))
    assert torch.equal(read, written)


def test_symbols_do_not_depend_on_the_batch(prior):
    scaled = latents(5)
    together, blocks = encoded(prior, scaled, 90)
    for i in range(5):
        alone, [block] = encoded(prior, scaled[i : i + 1], 90)
        assert torch.equal(alone[0], together[i])
        assert block == blocks[i]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("mkldnn", [True, False])
@pytest.mark.parametrize("autocast", [True, False])
def test_symbols_do_not_depend_on_the_circumstances(prior, threads, mkldnn, autocast):
    scaled = latents(2)
    expected, blocks = encoded(prior, scaled, 90)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        with torch.backends.mkldnn.flags(enabled=mkldnn), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found = prior.walk((2, 16, 24), 90, Decoder([[block] for block in blocks], TABLES, CPU))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("passes", [PASSES, PASSES_IN_PARTS])
@pytest.mark.parametrize("size", [(4, 4), (8, 12)])
def test_every_symbol_is_coded_in_exactly_one_pass(passes, size):
    masks = pass_masks(32, *size, passes)
    assert masks.shape[0] == passes and (masks.sum(0) == 1).all()
    for k in range(passes):
        rows, columns = pass_lines(*size, k, passes)
        assert np.array_equal(masks[k].any((0, 2)).nonzero()[0], rows)
        assert np.array_equal(masks[k].any((0, 1)).nonzero()[0], columns)


def test_reconstruction_is_within_half_a_step(prior):
    scaled = latents(1)
    decoded, _ = encoded(prior, scaled, 150)
    error = (decoded.float() / 16 - scaled).abs()
    tolerance = 0.5 + 1 / 16
    # Symbols under table 0 are forced to zero: few, and only where the prior is nearly certain.
    assert (error > tolerance).float().mean() < 0.05


def test_the_estimate_is_the_length(prior):
    scaled = latents(1, 64, 64)
    hyper = prior.hyper_latents(scaled, 120)
    estimator = CostEstimator(scaled, hyper, TABLES)
    prior.walk((1, 64, 64), 120, estimator)
    _, [block] = encoded(prior, scaled, 120)
    assert abs(len(block) - estimator.bits / 8) < 0.002 * len(block) + 4


def test_integers_stay_near_the_trained_network(random_model, prior):
    """Means and tables of the first pass, whose inputs are the same on both sides."""
    network = random_model.prior
    scaled = latents(1)
    quality = torch.tensor([45.0])

    class Watch(Coder):
        first = None

        def latents(self, blocks, positions, means, tables):
            if self.first is None:
                self.first = (positions, means, tables)
            return super().latents(blocks, positions, means, tables)

    watch = Watch(scaled, prior.hyper_latents(scaled, 90), TABLES)
    prior.walk((1, 16, 24), 90, watch)
    positions, means, tables = watch.first
    network.set_quantise(True)
    coded = network(scaled, quality)
    network.set_quantise(False)
    mask = torch.from_numpy(pass_masks(8, 16, 24)[0]).flatten()
    assert torch.equal(positions, torch.nonzero(mask).flatten())
    assert (coded.means.flatten()[mask] * 16 - means[0]).abs().mean() < 1.0
    assert (coded.scales.flatten()[mask] - tables[0]).abs().float().mean() < 0.5


def test_hyper_latents_are_predicted_as_the_trained_network_does(random_model, prior):
    network, quality = random_model.prior, torch.tensor([45.0])
    scaled = latents(1)
    found = torch.full((2, 4 * 4 * 6), -1e3)

    class Watch(Coder):
        passes = 0

        def hyper(self, blocks, positions, means, tables):
            self.passes += 1
            found[:, positions] = torch.stack([means[0] / 16, tables[0].float()])
            return super().hyper(blocks, positions, means, tables)

    watch = Watch(scaled, prior.hyper_latents(scaled, 90), TABLES)
    prior.walk((1, 16, 24), 90, watch)
    assert watch.passes == 4
    network.set_quantise(True)
    with torch.no_grad():
        _, means, index = network._hyper_decoded(network.hyper_latents(scaled, quality), quality)
        base = network.hyper_mean(quality)[:, :, None, None]
    network.set_quantise(False)
    assert (means.flatten() - found[0]).abs().max() < 0.2
    assert (index.flatten() - found[1]).abs().max() <= 1
    assert (means - base).abs().max() > 0.5  # neighbours tell something


def test_fixed_point_rounds_halves_up():
    half = torch.tensor(1 << 23)
    assert scaled(torch.tensor([1, -1, 3]), half).tolist() == [1, 0, 2]


def test_rows_of_quality_meet_the_knots(random_model):
    rows = quality_rows(random_model.gain)
    assert rows.shape[0] == QUALITY_LEVELS
    assert torch.allclose(rows[90], random_model.gain(torch.tensor([45.0]))[0].double(), atol=1e-6)


def test_a_missing_tensor_is_named(random_model):
    tensors = prior_tensors(random_model.prior)
    del tensors["hyper_mean"]
    with pytest.raises(BundleError, match="hyper_mean"):
        LearnedPrior(SMALL_PRIOR, tensors, TABLES, CPU)


def test_sums_beyond_what_float32_holds_are_refused(random_model):
    tensors = prior_tensors(random_model.prior)
    tensors["pass0.head.bias"] = tensors["pass0.head.bias"] + (1 << 24)
    with pytest.raises(BundleError, match=r"2\*\*24"):
        LearnedPrior(SMALL_PRIOR, tensors, TABLES, CPU)


def test_passes_are_four():
    assert PASSES == 4 and np.array_equal(pass_masks(4, 2, 2)[0, 0], [[True, False], [False, False]])
