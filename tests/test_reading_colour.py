"""Colour that a file states without an ICC profile becomes sRGB."""

from __future__ import annotations

import io
import struct
import warnings

import numpy as np
import pytest
from PIL import Image, ImageCms

from raw_images import png_bytes
from sdcodec.errors import SdcodecWarning
from sdcodec.pixels import boxes, coded, read_picture

P3_RED = (234, 51, 35)  # Display P3 coordinates of sRGB's red
P3 = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
PQ_WHITE = round(65535 * 0.5806888810416109)  # 203 cd/m2


def png_of(colour: tuple[int, ...], *chunks: tuple[bytes, bytes], depth: int = 8) -> bytes:
    return png_bytes(np.full((8, 8, 3), colour), depth, 2, before=chunks)


def colour_of(data: bytes | Image.Image) -> list[int]:
    return read_picture(data).rgb[0, 0].tolist()


def iccp(profile: bytes) -> tuple[bytes, bytes]:
    import zlib

    return b"iCCP", b"own\0\0" + zlib.compress(profile)


SRGB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def avif_of(colour: tuple[int, ...], primaries: int, transfer: int) -> bytes:
    """Write an AVIF file and set the code points of its nclx box."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(buffer, "AVIF", quality=100, subsampling="4:4:4")
    data = bytearray(buffer.getvalue())
    place = data.index(b"nclx") + 4
    struct.pack_into(">HH", data, place, primaries, transfer)
    return bytes(data)


def test_display_p3_in_avif() -> None:
    assert np.abs(np.subtract(colour_of(avif_of(P3_RED, 12, 13)), (255, 0, 0))).max() <= 2


@pytest.mark.parametrize(("primaries", "transfer"), [(1, 13), (1, 1), (2, 2), (1, 200), (200, 13)])
def test_srgb_and_unspecified_in_avif_change_nothing(primaries: int, transfer: int) -> None:
    assert np.abs(np.subtract(colour_of(avif_of(P3_RED, primaries, transfer)), P3_RED)).max() <= 2


def test_display_p3_in_cicp() -> None:
    assert colour_of(png_of(P3_RED, (b"cICP", bytes([12, 13, 0, 1])))) == [255, 0, 0]


def test_narrow_range_in_cicp() -> None:
    assert colour_of(png_of((16, 126, 235), (b"cICP", bytes([1, 13, 0, 0])))) == [0, 128, 255]


def test_cicp_comes_before_a_profile() -> None:
    assert colour_of(png_of(P3_RED, iccp(SRGB_PROFILE), (b"cICP", bytes([12, 13, 0, 1])))) == [255, 0, 0]
    srgb_over_gamma = png_of(P3_RED, (b"cICP", bytes([1, 13, 0, 1])), (b"gAMA", struct.pack(">I", 100000)))
    assert colour_of(srgb_over_gamma) == list(P3_RED)


def test_gamma_of_linear_light() -> None:
    assert colour_of(png_of((0, 55, 255), (b"gAMA", struct.pack(">I", 100000)))) == [0, 128, 255]


def test_gamma_of_a_power() -> None:
    value = round(255 * (128 / 255) ** (1 / 1.8))
    light = (value / 255) ** 1.8
    expected = round(255 * (1.055 * light ** (1 / 2.4) - 0.055))
    assert colour_of(png_of((value,) * 3, (b"gAMA", struct.pack(">I", 55556)))) == [expected] * 3


def test_gamma_of_an_image_that_is_loaded_already() -> None:
    image = Image.open(io.BytesIO(png_of((0, 55, 255), (b"gAMA", struct.pack(">I", 100000)))))
    image.load()
    assert colour_of(image) == [0, 128, 255]


@pytest.mark.parametrize("gamma", [45455, 45000, 0])
def test_gamma_of_srgb_changes_nothing(gamma: int) -> None:
    assert colour_of(png_of((10, 128, 200), (b"gAMA", struct.pack(">I", gamma)))) == [10, 128, 200]


def test_chromaticities() -> None:
    assert colour_of(png_of(P3_RED, (b"cHRM", P3))) == [255, 0, 0]


@pytest.mark.parametrize("chromaticities", [bytes(32), struct.pack(">8I", *[33333] * 8)])
def test_impossible_chromaticities_change_nothing(chromaticities: bytes) -> None:
    assert colour_of(png_of(P3_RED, (b"cHRM", chromaticities))) == list(P3_RED)


@pytest.mark.parametrize("first", [(b"sRGB", b"\0"), iccp(SRGB_PROFILE)], ids=["sRGB", "iCCP"])
def test_gamma_and_chromaticities_yield_to_other_chunks(first: tuple[bytes, bytes]) -> None:
    data = png_of(P3_RED, first, (b"gAMA", struct.pack(">I", 100000)), (b"cHRM", P3))
    assert colour_of(data) == list(P3_RED)


def test_alpha_and_grey_with_gamma() -> None:
    values = np.full((8, 8, 2), (55, 77))
    picture = read_picture(png_bytes(values, 8, 4, before=[(b"gAMA", struct.pack(">I", 100000))]))
    assert picture.alpha is not None and picture.alpha[0, 0] == 77
    assert picture.rgb[0, 0].tolist() == [128] * 3


class TestHdr:
    def test_reference_white_of_pq_is_white(self) -> None:
        data = png_of((PQ_WHITE,) * 3, (b"cICP", bytes([9, 16, 0, 1])), depth=16)
        with pytest.warns(SdcodecWarning, match=r"HDR \(PQ\).*BT\.2390.*203 cd/m2"):
            assert colour_of(data) == [255] * 3

    def test_reference_white_of_hlg_is_white(self) -> None:
        data = png_of((49151,) * 3, (b"cICP", bytes([9, 18, 0, 1])), depth=16)
        with pytest.warns(SdcodecWarning, match=r"HDR \(HLG\)"):
            assert min(colour_of(data)) >= 254

    def test_pq_in_avif(self) -> None:
        with pytest.warns(SdcodecWarning, match=r"HDR \(PQ\)"):
            assert min(colour_of(avif_of((148,) * 3, 9, 16))) >= 253

    def test_highlights_keep_their_order_and_shadows_their_light(self) -> None:
        codes = np.arange(0, 49000, 7)
        values = np.repeat(codes.reshape(1, -1, 1), 3, axis=2)
        with pytest.warns(SdcodecWarning):
            rgb = read_picture(png_bytes(values, 16, 2, before=[(b"cICP", bytes([9, 16, 0, 1]))])).rgb[0, :, 0]
        assert (np.diff(rgb.astype(int)) >= 0).all() and rgb[-1] == 255
        light = coded.pq_decoded(codes / 65535)
        dark = (light < 0.2) & (light > 0)
        encoded = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
        assert np.abs(rgb[dark] - 255 * encoded[dark]).max() < 1

    def test_pq_codes_and_light_are_inverse(self) -> None:
        codes = np.linspace(0.01, 1, 50)
        assert np.allclose(coded.pq_encoded(coded.pq_decoded(codes)), codes)
        assert np.isclose(coded.pq_decoded(1.0), 10000 / 203)


def test_matrices_keep_white() -> None:
    for code in coded.PRIMARIES:
        colour = coded.from_code_points(coded.CodePoints(code, 13, 0))
        white = coded.converted(np.full((1, 1, 3), 255, np.uint8), colour)
        assert white.min() >= 254, code


def test_conversion_agrees_with_a_profile() -> None:
    """Compare with LittleCMS on a profile of the same primaries."""
    random = np.random.default_rng(3)
    values = random.integers(0, 256, (16, 16, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = read_picture(png_bytes(values, 8, 2, before=[(b"cICP", bytes([12, 13, 0, 1]))])).rgb
    theirs = read_picture(png_bytes(values, 8, 2, before=[iccp(profile_with(SRGB_PROFILE, P3))])).rgb
    assert np.abs(ours.astype(int) - theirs).max() <= 2


def profile_with(profile: bytes, chrm: bytes) -> bytes:
    """Set the primaries of a matrix profile, adapted to the D50 of profiles."""
    white, *rest = np.array(struct.unpack(">8I", chrm)).reshape(4, 2) / 100000
    primaries = np.stack([[x / y, 1, (1 - x - y) / y] for x, y in rest], axis=1)
    source = np.array([white[0] / white[1], 1, (1 - white.sum()) / white[1]])
    matrix = primaries * np.linalg.solve(primaries, source)
    gain = (coded.BRADFORD @ (0.9642, 1, 0.8249)) / (coded.BRADFORD @ source)
    adapted = np.linalg.inv(coded.BRADFORD) @ np.diag(gain) @ coded.BRADFORD @ matrix
    changed = bytearray(profile)
    (count,) = struct.unpack_from(">I", changed, 128)
    for i in range(count):
        tag, offset, _ = struct.unpack_from(">4sII", changed, 132 + 12 * i)
        if tag in (b"rXYZ", b"gXYZ", b"bXYZ"):
            column = adapted[:, b"rgb".index(tag[:1])]
            struct.pack_into(">3i", changed, offset + 8, *(round(v * 65536) for v in column))
    return bytes(changed)


def box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", len(body) + 8, kind) + body


@pytest.mark.parametrize(
    ("clap", "expected"),
    [
        ((20, 1, 10, 1, 0, 1, 0, 1), (22, 15, 42, 25)),
        ((20, 1, 10, 1, -22, 1, 3, 1), (0, 18, 20, 28)),
        ((21, 1, 10, 1, 1, 2, 0, 1), (22, 15, 43, 25)),
        ((20, 1, 10, 1, 50, 1, 0, 1), None),  # beyond the edge
        ((20, 0, 10, 1, 0, 1, 0, 1), None),
    ],
)
def test_crop_of_avif(clap: tuple[int, ...], expected: tuple[int, ...] | None) -> None:
    properties = box(b"ispe", bytes(12)) + box(b"clap", struct.pack(">4IiIiI", *clap))
    associations = box(b"ipma", bytes(4) + struct.pack(">IHBBB", 1, 7, 2, 1, 0x82))
    meta = (
        bytes(4) + box(b"pitm", bytes(4) + struct.pack(">H", 7)) + box(b"iprp", box(b"ipco", properties) + associations)
    )
    data = box(b"ftyp", b"avif") + box(b"meta", meta)
    assert boxes.clean_aperture(data, 64, 40) == expected
    for length in range(len(data)):
        boxes.clean_aperture(data[:length], 64, 40)
        boxes.code_points(data[:length])
