"""Grids of several blocks: tables from the block alone, means from the whole grid."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import sdcodec
from conftest import SMALL_PRIOR
from sdcodec.coding.tables import gaussian_tables, scales
from sdcodec.priors.adaptive import AdaptivePrior
from sdcodec.priors.adaptive_tables import adaptive_config, adaptive_prior_tensors
from sdcodec.priors.blocks import block_batches, cut, paste
from sdcodec.priors.learned import LearnedPrior
from sdcodec.priors.passes import PASSES_IN_PARTS
from sdcodec.priors.sources import Coder, Decoder
from sdcodec.training.export import prior_tensors
from sdcodec.training.prior_network import PriorNetwork

CPU = torch.device("cpu")
TABLES = gaussian_tables(scales())
GRID = 84, 140  # 2 x 3 blocks, the last ones smaller
REACH = 32  # latents around a damaged block that may change


def learned(random_model, passes: int) -> LearnedPrior:
    if passes == 4:
        return LearnedPrior(SMALL_PRIOR, prior_tensors(random_model.prior), TABLES, CPU)
    config = replace(SMALL_PRIOR, passes=PASSES_IN_PARTS, direct_kernel=7)
    torch.manual_seed(3)
    network = PriorNetwork(config, 0.0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1 and "values" not in name:
                parameter.mul_(2.0)
            if "direct" in name:
                parameter.normal_(std=0.02)
    return LearnedPrior(config, prior_tensors(network), TABLES, CPU)


@pytest.fixture(params=["four passes", "seven passes", "adaptive"])
def prior(request, random_model):
    if request.param == "adaptive":
        return AdaptivePrior(adaptive_config(8), *adaptive_prior_tensors(8), CPU)
    return learned(random_model, 4 if request.param == "four passes" else PASSES_IN_PARTS)


def latents(items: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(items, 8, GRID[0] // 4, GRID[1] // 4, generator=generator)
    field = torch.nn.functional.interpolate(coarse, GRID, mode="bicubic")
    return 4 * field + torch.randn(field.shape, generator=generator)


def encoded(prior, scaled):
    coder = Coder(scaled, prior.hyper_latents(scaled, 90), prior.tables)
    values = prior.walk((len(scaled), *scaled.shape[2:]), 90, coder)
    return values, coder.finish()


def decoded(prior, images):
    return prior.walk((len(images), *GRID), 90, Decoder(images, prior.tables, CPU))


def test_decoding_mirrors_encoding_over_several_blocks(prior):
    scaled = latents(2)
    values, images = encoded(prior, scaled)
    assert [len(blocks) for blocks in images] == [6, 6]
    assert torch.equal(decoded(prior, images), values)
    assert ((values.float() / 16 - scaled).abs() > 0.5 + 1 / 16).float().mean() < 0.05  # those under table 0
    alone, [blocks] = encoded(prior, scaled[1:])
    assert torch.equal(alone[0], values[1]) and blocks == images[1]


def test_another_block_changes_a_rim_only(prior):
    """Each block in turn comes from another picture; the rest stays, but for a rim."""
    values, [blocks] = encoded(prior, latents(1))
    _, [others] = encoded(prior, latents(1, seed=1))
    for [block] in ([own] for batch in block_batches(1, *GRID) for own in batch):
        mixed = [*blocks[: block.index], others[block.index], *blocks[block.index + 1 :]]
        changed = (decoded(prior, [mixed]) != values).any(1)[0]
        far = torch.ones(GRID, dtype=torch.bool)
        rows, columns = (slice(max(0, side.start - REACH), side.stop + REACH) for side in (block.rows, block.columns))
        far[rows, columns] = False
        assert changed[block.rows, block.columns].any()
        assert not changed[far].any()


def test_means_see_across_borders(prior):
    values, [blocks] = encoded(prior, latents(1))
    _, [others] = encoded(prior, latents(1, seed=1))
    changed = (decoded(prior, [[others[0], *blocks[1:]]]) != values).any(1)[0]
    assert changed[:64, 64:].any() and changed[64:, :64].any()


def test_means_of_a_grid_are_those_of_one_large_block(random_model):
    """Predictions made alone and corrected near borders equal the plain result."""
    network, reach = learned(random_model, 4)._passes[3], 2
    generator = torch.Generator().manual_seed(7)
    features = torch.randint(0, 128, (1, 16, 24, 40), generator=generator, dtype=torch.int8)
    context = torch.randint(-127, 128, (1, 8, 24, 40), generator=generator, dtype=torch.int8)
    padded = torch.nn.functional.pad(context, (reach,) * 4)
    whole, _ = network.predicted(features, padded, 90)
    left = network.predicted(features[..., :24], torch.nn.functional.pad(context[..., :24], (reach,) * 4), 90)[0]
    differing = torch.zeros(1, 24, 24, dtype=torch.bool)
    differing[..., 22:] = True
    corrected = network.corrected(left, differing, features[..., :24], padded[..., : 24 + 2 * reach], 90)
    assert not torch.equal(left, whole[..., :24])
    assert torch.equal(corrected, whole[..., :24])


def test_parts_are_cut_and_pasted_with_their_margin():
    plane = torch.arange(2 * 3 * 88 * 144).view(2, 3, 88, 144)
    inner = plane[:, :, 2:-2, 2:-2]
    copied = torch.zeros_like(plane)
    for blocks in block_batches(2, *GRID):
        parts = cut(plane, blocks, margin=2)
        for own, block in zip(parts, blocks, strict=True):
            assert torch.equal(own[:, 2:-2, 2:-2], inner[block.item][:, block.rows, block.columns])
        paste(copied, blocks, parts[:, :, 2:-2, 2:-2], margin=2)
    assert torch.equal(copied[:, :, 2:-2, 2:-2], inner)


def sky(height: int, width: int) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    colours = [
        90 + 80 * y / height + 20 * x / width,
        140 + 70 * y / height + 10 * np.sin(x / 300),
        200 + 40 * y / height,
    ]
    return Image.fromarray(np.stack(colours, -1).astype(np.uint8))


@pytest.mark.parametrize("quality", [0, 20, 50])
def test_blocks_have_no_seams_in_a_sky(quality):
    """Blocks that see nothing of each other jump 5 to 7 times as much."""
    picture = sky(192, 1024)
    codec = sdcodec.Codec("base", device="cpu")
    found = np.asarray(codec.decode(codec.encode(picture, quality=quality, effort=0).data), np.float64)
    jumps = np.abs(np.diff(found - np.asarray(picture), axis=1)).mean((0, 2))[7::8]
    near = np.delete(jumps, 63)
    assert jumps[63] <= 1.2 * max(0.05, np.median(near))
