"""Effort: files of every level are ordinary, keep budgets, and are better."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import reference_decoder
import sdcodec
from conftest import photograph
from sdcodec import refinement
from sdcodec.bundles import store
from sdcodec.coding.tables import FrequencyTables, gaussian_tables
from sdcodec.effort import EFFORTS, HIGHEST
from sdcodec.model import Model
from sdcodec.perceptual.lpips import LPIPS
from sdcodec.priors.rounding import PLAIN, Rounding

PHOTOGRAPH = Path(__file__).parents[1] / "images" / "raccoon.png"


@pytest.fixture(scope="module")
def codec(random_bundle):
    return sdcodec.Codec(random_bundle, device="cpu", precision="float32")


@pytest.fixture(scope="module")
def base():
    return sdcodec.Codec(store.DEFAULT, device="cpu", precision="float32")


@pytest.fixture(scope="module")
def crops():
    """Four of 96x96: fur, eyes, grass."""
    with Image.open(PHOTOGRAPH) as image:
        whole = image.convert("RGB")
    return [np.asarray(whole.crop((x, y, x + 96, y + 96))) for x, y in ((180, 120), (276, 120), (180, 216), (60, 330))]


@pytest.fixture(scope="module")
def crop(crops):
    return crops[0]


def refiner(codec, pixels, quality_index):
    [latents] = codec._latents([sdcodec.codec.read_picture(pixels)])
    picture = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255
    return refinement.Refiner(codec._model, quality_index, picture, pixels.shape[:2]), latents


def measured(refiner, latents, quality_index):
    """Bits and distortion, as the refiner counts them, without shifts."""
    state = refiner._walk(latents * refiner._model.quantiser.gain[quality_index][:, None, None])
    return state.bits, refiner._distortion(state.decoded, (0, 0), gradient=False)[0]


@pytest.mark.parametrize("effort", [1, 3, 4])
def test_files_of_every_effort_are_ordinary(base, crop, effort):
    data = base.encode(crop[:64, :65], quality=30, effort=effort).data
    assert data != base.encode(crop[:64, :65], quality=30, effort=0).data
    found = reference_decoder.decode(data, store.SHIPPED / store.DEFAULT / "prior.safetensors")
    assert np.array_equal(found, base.symbols(data))
    assert base.decode(data).size == (65, 64)


def test_nothing_is_refined_unasked(codec):
    pixels = photograph(64, 64)
    plain = codec.encode(pixels, effort=0).data
    assert codec.encode(pixels).data == codec.encode_batch([pixels])[0].data == plain
    assert plain not in (codec.encode(pixels, effort=own).data for own in (3, 4))


def test_no_effort_rounds_to_the_nearest():
    assert EFFORTS[0].rounding == PLAIN and EFFORTS[0].iterations == 0


def test_the_short_way_to_a_file_takes_an_effort_and_a_mode(random_bundle, codec):
    pixels, options = photograph(64, 64), {"model": random_bundle, "device": "cpu", "precision": "float32"}
    plain, weighed = (sdcodec.encode(pixels, quality=80, effort=effort, **options) for effort in (0, 3))
    assert weighed == codec.encode(pixels, quality=80, effort=3).data != plain
    assert sdcodec.encode(pixels, mode="palette", **options) == codec.encode(pixels, mode="palette").data


def test_refining_is_deterministic(codec):
    pixels = photograph(64, 64)
    assert codec.encode(pixels, effort=4).data == codec.encode(pixels, effort=4).data


def test_refining_moves_latents_no_farther_than_the_model_says(base, crop):
    refine, latents = refiner(base, crop, 80)
    moved = ((refine.run(latents, 8) - latents) * base._model.quantiser.gain[80][:, None, None]).abs()
    reach = base._model.autoencoder.refinement_reach
    assert 0.99 * reach < float(moved.max()) < 1.001 * reach


@pytest.mark.parametrize("effort", [2, 5])
@pytest.mark.parametrize("target", [500, 1200])
def test_budgets_hold_at_every_effort_and_are_used(base, crop, effort, target):
    encoded = base.encode(crop, target_bytes=target, effort=effort)
    assert 0.96 * target < len(encoded.data) <= target


def test_batches_are_what_single_pictures_are(codec):
    pixels = [photograph(64, 64, seed) for seed in range(2)]
    batch = [encoded.data for encoded in codec.encode_batch(pixels, quality=40, effort=4)]
    assert batch == [codec.encode(own, quality=40, effort=4).data for own in pixels]


@pytest.mark.parametrize("effort", [-1, HIGHEST + 1])
def test_levels_that_do_not_exist_are_refused(codec, effort):
    with pytest.raises(sdcodec.OptionError, match="from 0 to 9"):
        codec.encode("is not even read", effort=effort)


def test_refining_needs_a_gradient(codec, monkeypatch):
    class Opaque:
        channels, factor, margin = codec._model.autoencoder.channels, 8, codec._model.autoencoder.margin
        encode, decode = codec._model.autoencoder.encode, codec._model.autoencoder.decode

    model = Model(Opaque(), codec._model.quantiser, codec._model.prior)
    monkeypatch.setattr(codec, "_model", model)
    with pytest.raises(sdcodec.OptionError, match="effort from 0 to 3"):
        codec.encode(photograph(32, 32), effort=4)
    assert codec.encode(photograph(32, 32), effort=3).data


# Rounding


def test_weighing_bits_never_costs_more_than_the_nearest():
    """Bits + worth * squared error of every single symbol, over all tables."""
    sigmas, worth = np.geomspace(0.1, 20, 64), 6.0
    tables, indices = gaussian_tables(sigmas), torch.arange(4000) % 64
    away = torch.from_numpy(sigmas)[indices] * torch.randn(4000, generator=torch.Generator().manual_seed(0))

    def costs(rounding: Rounding) -> np.ndarray:
        symbols = rounding.symbols(away, indices, tables)
        bits = [tables.log2_cost(symbols[i : i + 1].numpy(), indices[i : i + 1].numpy()) for i in range(len(away))]
        return np.array(bits) + worth * ((symbols - away) ** 2).numpy()

    plain, weighed = costs(PLAIN), costs(Rounding(worth=worth))
    coded = (indices != 0).numpy()
    assert (weighed[coded] <= plain[coded] + 1e-4).all()
    assert weighed[coded].sum() < 0.995 * plain[coded].sum()


def test_what_is_coded_first_is_weighed_least():
    tables = gaussian_tables(np.geomspace(0.1, 20, 64))
    away, indices = torch.full((1,), 0.6), torch.full((1,), 12)
    assert Rounding(worth=8.0).symbols(away, indices, tables, coded=0.25) == 1
    assert Rounding(worth=8.0).symbols(away, indices, tables, coded=1.0) == 0


def test_further_bits_are_differences_of_costs():
    tables = FrequencyTables(
        np.array([1, 2]), [np.array([1, 65533, 1, 1]), np.array([64, 1024, 62336, 1024, 64, 1024])]
    )
    assert np.allclose(tables.further_bits[1], [0, np.log2(62336 / 1024), 4, 0])
    assert not tables.further_bits[0].any()


@pytest.mark.parametrize("quality_index", [50, 120])
def test_weighing_bits_makes_files_smaller(base, crops, quality_index):
    sizes = [
        sum(len(base.encode(own, quality=quality_index / 2, effort=effort).data) for own in crops)
        for effort in range(4)
    ]
    assert sizes == sorted(sizes, reverse=True) and sizes[3] < 0.99 * sizes[0]


# Refining


@pytest.mark.parametrize(("iterations", "least"), [(2, 0.995), (8, 0.99)])
def test_refining_lowers_bits_and_distortion_together(base, crop, iterations, least):
    by, latents = refiner(base, crop, 90)
    bits, distortion = measured(by, latents, 90)
    weight = by._weight(by._walk(latents * base._model.quantiser.gain[90][:, None, None]))
    refined_bits, refined_distortion = measured(by, by.run(latents, iterations), 90)
    assert refined_bits < 1.03 * bits
    assert refined_bits + weight * refined_distortion < least * (bits + weight * distortion)


def test_refining_keeps_latents_that_it_cannot_make_better(base, crop, monkeypatch):
    by, latents = refiner(base, crop, 90)
    monkeypatch.setattr(refinement, "RATE", 50.0)
    assert by.run(latents, 1) is latents


def test_refining_shows_in_the_decoded_picture(base, crops):
    lpips = LPIPS()

    def size_and_distance(effort: int) -> tuple[int, float]:
        files = [base.encode(own, quality=45, effort=effort).data for own in crops]
        decoded = np.stack([np.array(base.decode(data)) for data in files])
        images, originals = (
            torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 for pixels in (decoded, np.stack(crops))
        )
        return sum(map(len, files)), float(lpips.distance(images, originals).mean())

    (plain_size, plain), (refined_size, refined) = size_and_distance(0), size_and_distance(5)
    assert refined_size < 1.03 * plain_size
    assert refined < 0.85 * plain


def test_what_is_padded_does_not_count(base, crop, monkeypatch):
    monkeypatch.setattr(base._model.autoencoder, "refinement_lpips", 0.0)  # which looks over the edge
    by, latents = refiner(base, crop, 90)
    decoded = by._walk(latents * base._model.quantiser.gain[90][:, None, None]).decoded
    by._visible = (96, 8)
    before, gradient = by._distortion(decoded, (0, 0), gradient=True)
    by._picture[:, :, 8:] = 0
    after, _ = by._distortion(decoded, (0, 0), gradient=False)
    assert gradient.any() and before == pytest.approx(after, rel=1e-5) and before > 0
    monkeypatch.undo()
    by._visible = (0, 0)
    nothing, gradient = by._distortion(decoded, (0, 0), gradient=True)
    assert nothing == 0 and not gradient.any()


def test_pictures_of_several_windows_are_refined(base, crop, monkeypatch):
    by, latents = refiner(base, crop, 90)
    decoded = by._walk(latents * base._model.quantiser.gain[90][:, None, None]).decoded
    monkeypatch.setattr(base._model.autoencoder, "refinement_lpips", 0.0)
    whole, gradient = by._distortion(decoded, (0, 0), gradient=True)
    monkeypatch.setattr(refinement, "WINDOW_LATENTS", 8)
    parts, own = by._distortion(decoded, (0, 0), gradient=True)
    assert parts == pytest.approx(whole, rel=1e-4)
    assert torch.allclose(own, gradient, atol=1e-3 * float(gradient.abs().max()))
