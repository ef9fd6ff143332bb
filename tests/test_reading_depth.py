"""Every bit depth and every kind of transparency becomes 8-bit colour and alpha."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from raw_images import SAMPLES, png_bytes, tiff_bytes
from sdcodec.errors import ImageError, SdcodecWarning
from sdcodec.pixels import read_picture

HEIGHT, WIDTH = 19, 27  # no multiple of 8: rows end within a byte, passes differ in size

EVERY_KIND = [(depth, 0) for depth in (1, 2, 4, 8, 16)] + [(depth, kind) for kind in (2, 4, 6) for depth in (8, 16)]


def ramp(depth: int, count: int = 1) -> np.ndarray:
    """Make samples from 0 to the largest value, `[H, W, count]`."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    largest = (1 << depth) - 1
    planes = [x * largest // (WIDTH - 1), y * largest // (HEIGHT - 1), (x + y) * largest // (WIDTH + HEIGHT - 2)]
    return np.stack([*planes, largest - planes[0]][:count], axis=-1)


def in_eight_bits(values: np.ndarray, depth: int) -> np.ndarray:
    return np.floor(values * 255 / ((1 << depth) - 1) + 0.5).astype(np.uint8)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("depth", "kind"), EVERY_KIND)
def test_png_of_every_depth(depth: int, kind: int, interlaced: bool) -> None:
    values = ramp(depth, SAMPLES[kind])
    picture = read_picture(png_bytes(values, depth, kind, interlaced=interlaced))
    expected = in_eight_bits(values, depth)
    has_alpha = kind in (4, 6)
    colour = expected[:, :, :-1] if has_alpha else expected
    assert np.array_equal(picture.rgb, np.broadcast_to(colour, (HEIGHT, WIDTH, 3)))
    assert (picture.alpha is not None) == has_alpha
    if picture.alpha is not None:
        assert np.array_equal(picture.alpha, expected[:, :, -1])


@pytest.mark.parametrize("opened", [False, True], ids=["bytes", "PIL image"])
@pytest.mark.parametrize(("depth", "kind"), [own for own in EVERY_KIND if own[1] in (0, 2)])
def test_png_with_a_transparent_colour(depth: int, kind: int, opened: bool) -> None:
    values = ramp(depth, SAMPLES[kind])
    key = values[7, 9]
    near = values[11, 12]
    near[-1] = key[-1] ^ 1  # one step from the transparent colour, which 8 bits cannot tell in 16
    near[:-1] = key[:-1]
    data = png_bytes(values, depth, kind, before=[(b"tRNS", struct.pack(f">{len(key)}H", *key))])
    picture = read_picture(Image.open(io.BytesIO(data)) if opened else data)
    assert picture.alpha is not None
    assert np.array_equal(picture.alpha == 0, (values == key).all(axis=2))
    assert set(np.unique(picture.alpha)) == {0, 255}
    assert np.array_equal(picture.rgb, np.broadcast_to(in_eight_bits(values, depth), (HEIGHT, WIDTH, 3)))


def test_upper_bits_of_a_transparent_colour_do_not_count() -> None:
    values = ramp(4)
    picture = read_picture(png_bytes(values, 4, 0, before=[(b"tRNS", struct.pack(">H", 0xFF0F))]))
    assert picture.alpha is not None and np.array_equal(picture.alpha == 0, values[:, :, 0] == 15)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_png_palette_with_transparent_entries(depth: int) -> None:
    values = ramp(depth)
    count = 1 << depth
    palette = np.random.default_rng(depth).integers(0, 256, (count, 3), np.uint8)
    alphas = bytes(range(0, 256, 256 // count))[: count // 2]
    chunks = [(b"PLTE", palette.tobytes()), (b"tRNS", alphas)]
    picture = read_picture(png_bytes(values, depth, 3, before=chunks))
    every = np.frombuffer(alphas.ljust(count, b"\xff"), np.uint8)
    assert picture.alpha is not None and np.array_equal(picture.alpha, every[values[:, :, 0]])
    assert np.array_equal(picture.rgb, palette[values[:, :, 0]])


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16])
def test_tiff_of_every_depth(bits: int) -> None:
    values = ramp(bits)
    expected = np.broadcast_to(in_eight_bits(values, bits), (HEIGHT, WIDTH, 3))
    assert np.array_equal(read_picture(tiff_bytes(values, bits, 1)).rgb, expected)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_tiff_whose_zero_is_white(bits: int) -> None:
    values = ramp(bits)
    expected = 255 - np.broadcast_to(in_eight_bits(values, bits), (HEIGHT, WIDTH, 3)).astype(int)
    picture = read_picture(tiff_bytes(values, bits, 0))
    assert np.abs(picture.rgb - expected).max() <= (1 if bits == 16 else 0)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (tiff_bytes(ramp(32), 32, 1), "32-bit samples have no agreed white"),
        (tiff_bytes(ramp(15), 16, 1, extra=[(339, 3, 2)]), "16-bit signed samples"),
        (tiff_bytes(ramp(7), 8, 1, extra=[(339, 3, 2)]), "8-bit signed samples"),
        (tiff_bytes(ramp(16, 3), 16, 2, separate=True), "separate planes"),
        (tiff_bytes(ramp(8, 3), 8, 6), "subsampled YCbCr"),
    ],
)
def test_tiff_that_would_be_read_wrongly_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        read_picture(data)


def test_tiff_with_separate_planes_of_8_bits() -> None:
    values = ramp(8, 3)
    assert np.array_equal(read_picture(tiff_bytes(values, 8, 2, separate=True)).rgb, values)


@pytest.mark.parametrize("kind", [0, 2])
def test_sixteen_bits_with_small_values_are_read_with_a_warning(kind: int) -> None:
    values = ramp(10, SAMPLES[kind])
    with pytest.warns(SdcodecWarning, match="do not exceed 1023 of 65535"):
        assert read_picture(png_bytes(values, 16, kind)).rgb.max() == 4


def test_sixteen_bits_that_are_black_are_black() -> None:
    assert read_picture(png_bytes(ramp(16) * 0, 16, 0)).rgb.max() == 0


@pytest.mark.parametrize("largest", [1, 100, 255, 1000, 65535])
def test_pnm_of_every_largest_value(largest: int) -> None:
    values = np.arange(largest + 1)[:: max(1, largest // 50)]
    values = np.append(values, largest)
    dtype = ">u1" if largest < 256 else ">u2"
    data = b"P5 %d 1 %d\n" % (len(values), largest) + values.astype(dtype).tobytes()
    expected = np.floor(values * 255 / largest + 0.5)
    assert np.abs(read_picture(data).rgb[0, :, 0] - expected).max() <= 1
