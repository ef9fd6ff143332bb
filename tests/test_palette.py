"""The experiment of 2022: palettes of latent vectors, dithered, exact in the file."""

from __future__ import annotations

import contextlib
import zlib
from dataclasses import replace

import numpy as np
import pytest

import reference_decoder
import sdcodec
from conftest import photograph
from sdcodec.bundles import store
from sdcodec.chunk_reader import check
from sdcodec.container import Container, Header
from sdcodec.errors import FormatError
from sdcodec.palette.vectors import VALUE_BITS, Palettised, palettised


@pytest.fixture(scope="module")
def codec(random_bundle):
    return sdcodec.Codec(random_bundle, device="cpu", precision="float32")


def smooth_latents(channels: int, height: int = 64, width: int = 64) -> np.ndarray:
    """Smooth fields with a little noise, float32 `[C, h, w]`."""
    random = np.random.default_rng(1)
    y, x = np.mgrid[0:height, 0:width] / 16
    fields = [np.sin(x * (k % 3 + 1) / 2 + k) * np.cos(y + 2 * k) + 0.3 * np.sin(x + y) for k in range(channels)]
    return (4 * np.stack(fields) + random.normal(0, 0.2, (channels, height, width))).astype(np.float32)


@pytest.mark.parametrize("channels", [4, 16, 32])
def test_payloads_come_back(channels):
    chosen = palettised(smooth_latents(channels))
    read = Palettised.from_bytes(chosen.to_bytes(), channels, 64, 64)
    assert np.array_equal(read.values(), chosen.values())
    assert len(chosen.palette) <= 256


def test_four_channels_of_64x64_take_about_5_kilobytes():
    assert 3500 < len(palettised(smooth_latents(4)).to_bytes()) < 5200


def test_dithering_keeps_local_means():
    """Means of 8x8 blocks beat those of the nearest colours, though MSE is worse."""
    scaled = smooth_latents(1)
    chosen = palettised(scaled, 4)
    colours = chosen.palette.astype(float) * chosen.unit / 256 + chosen.offsets / 16
    nearest = colours[np.abs(scaled.reshape(1, -1) - colours).argmin(0)].reshape(scaled.shape)
    dithered = chosen.values() / (1 << VALUE_BITS)

    def error_of_means(values: np.ndarray) -> float:
        return float(np.median(np.square((values - scaled).reshape(8, 8, 8, 8).mean(axis=(1, 3)))))

    assert error_of_means(dithered) < 0.1 * error_of_means(nearest)
    assert np.square(nearest - scaled).mean() < np.square(dithered - scaled).mean() < scaled.var() / 4


def test_few_distinct_vectors_are_kept_exactly():
    scaled = np.zeros((3, 8, 8), np.float32)
    scaled[:, 2:5, :] = 255 / 256
    assert np.array_equal(palettised(scaled).values() / 256, scaled)


def test_palettes_are_deterministic():
    assert palettised(smooth_latents(4)).to_bytes() == palettised(smooth_latents(4)).to_bytes()


@pytest.mark.parametrize("size", [(1, 1), (33, 70), (96, 64)])
def test_pictures_come_back(codec, size):
    encoded = codec.encode(photograph(*size), mode="palette")
    assert codec.decode(encoded.data).size == (size[1], size[0])
    assert Container.from_bytes(encoded.data).blocks == ()


def test_decoded_pictures_resemble_the_original():
    base = sdcodec.Codec(store.DEFAULT, device="cpu", precision="float32")
    pixels = photograph(96, 96)
    error = np.asarray(base.decode(base.encode(pixels, mode="palette").data)).astype(float) - pixels
    assert np.square(error).mean() < 0.15 * pixels.astype(float).var()


def test_more_colours_are_closer_and_the_header_says_so(codec):
    pixels = photograph(128, 128)
    full = codec.encode(pixels, mode="palette")
    few = codec.encode(pixels, mode="palette", target_bytes=len(full.data) // 3)
    assert few.quality < full.quality


def test_a_decoder_from_the_specification_agrees(codec, random_bundle):
    data = codec.encode(photograph(50, 70), mode="palette").data
    assert np.array_equal(reference_decoder.decode(data, random_bundle / "prior.safetensors"), codec.symbols(data))


def test_budgets_choose_the_number_of_colours(codec):
    pixels = photograph(128, 128)
    full = len(codec.encode(pixels, mode="palette").data)
    for target in (full // 4, full // 2, full):
        size = len(codec.encode(pixels, mode="palette", target_bytes=target).data)
        assert 0.85 * target < size <= target
    with pytest.raises(sdcodec.BudgetError, match="20 bytes are too few"):
        codec.encode(pixels, mode="palette", target_bytes=20)


@pytest.mark.parametrize(
    "options", [{"mode": "pixels"}, {"mode": "palette", "quality": 50}, {"mode": "palette", "effort": 2}]
)
def test_options_that_cannot_be_meant_are_refused(codec, options):
    with pytest.raises(sdcodec.OptionError):
        codec.encode(photograph(32, 32), **options)


def test_both_modes_decode_in_one_batch(codec):
    pixels = photograph(64, 64)
    dithered = codec.encode(pixels, mode="palette")
    plain = codec.encode(pixels, quality=dithered.quality)
    together = codec.decode_batch([plain.data, dithered.data, plain.data])
    alone = [codec.decode(data) for data in (plain.data, dithered.data, plain.data)]
    for one, other in zip(together, alone, strict=True):
        assert np.abs(np.asarray(one).astype(int) - np.asarray(other)).max() <= 1


def test_damage_is_always_noticed(codec):
    """Every truncation and every flipped bit of a small file."""
    data = codec.encode(photograph(32, 32), mode="palette").data
    for length in range(len(data)):
        with pytest.raises(FormatError):
            codec.decode(data[:length])
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FormatError):
            codec.decode(bytes(changed))


def test_damaged_palettes_behind_a_right_checksum_are_format_errors_or_pictures(codec):
    container = Container.from_bytes(codec.encode(photograph(64, 64), mode="palette").data)
    payload = container.palette
    for forged in (
        b"",
        payload[:10],
        payload[:-1],
        payload + b"\0",
        b"\0" + payload[1:],
        payload[:1] + b"\0\0" + payload[3:],
    ):
        with pytest.raises(FormatError):
            codec.decode(replace(container, palette=forged).to_bytes())
    random = np.random.default_rng(0)
    for _ in range(50):
        forged = bytearray(payload)
        forged[random.integers(len(forged))] ^= 1 << random.integers(8)
        with contextlib.suppress(FormatError):
            assert codec.decode(replace(container, palette=bytes(forged)).to_bytes()).size == (64, 64)


def test_latents_come_once():
    header = Header(b"none", 5, 40, 40)
    chunk = b"P\x01" + check(b"P\x01x") + b"x"
    body = Container(header, (b"block",)).to_bytes()[:-5] + chunk + b"\0"
    with pytest.raises(FormatError, match="two kinds"):
        Container.from_bytes(body + zlib.crc32(body).to_bytes(4, "big"))
