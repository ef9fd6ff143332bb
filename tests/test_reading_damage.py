"""Damaged files are read with a warning, refused, or filled on demand."""

from __future__ import annotations

import contextlib
import io
import time
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raw_images import SIGNATURE, chunk, png_bytes
from sdcodec.errors import ImageError, SdcodecWarning
from sdcodec.pixels import read_picture

PIXELS = np.random.default_rng(5).integers(0, 256, (40, 56, 3), np.uint8)
PNG = png_bytes(PIXELS, 8, 2)
TEXT = chunk(b"tEXt", b"Comment\0hello")


def jpeg(**options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def with_wrong_crc(data: bytes, kind: bytes) -> bytes:
    """Change the last byte of the CRC of the first chunk of a kind."""
    place = data.index(kind)
    end = place + 4 + int.from_bytes(data[place - 4 : place], "big") + 3
    return data[:end] + bytes([data[end] ^ 1]) + data[end + 1 :]


def read_with(warning: str, data: bytes, **options: bool) -> np.ndarray:
    with pytest.warns(SdcodecWarning, match=warning):
        return read_picture(data, **options).rgb


class TestPng:
    def test_ancillary_chunk_with_a_wrong_crc_is_left_out(self) -> None:
        data = with_wrong_crc(png_bytes(PIXELS, 8, 2, before=[(b"tEXt", b"Comment\0hello")]), b"tEXt")
        assert np.array_equal(read_with("chunk tEXt is damaged", data), PIXELS)

    @pytest.mark.parametrize("kind", [b"cHRM", b"gAMA", b"pHYs", b"sRGB"])
    def test_ancillary_chunk_that_is_too_short_is_left_out(self, kind: bytes) -> None:
        data = png_bytes(PIXELS, 8, 2, before=[(kind, b"")])
        assert np.array_equal(read_with(f"chunk {kind.decode()} is damaged", data), PIXELS)

    def test_image_data_with_a_wrong_crc(self) -> None:
        data = with_wrong_crc(PNG, b"IDAT")
        with pytest.raises(ImageError, match="--allow-truncated"):
            read_picture(data)
        assert np.array_equal(read_with("some pixels may be wrong", data, allow_truncated=True), PIXELS)

    @pytest.mark.parametrize("kind", [b"IHDR", b"PLTE"])
    def test_header_or_palette_with_a_wrong_crc_is_refused(self, kind: bytes) -> None:
        data = png_bytes(PIXELS[:, :, 0], 8, 3, before=[(b"PLTE", bytes(range(256)) * 3)])
        with pytest.raises(ImageError, match="damaged"):
            read_picture(with_wrong_crc(data, kind), allow_truncated=True)

    @pytest.mark.parametrize("missing", [1, 4, 8, 12, 15])
    def test_missing_end_mark(self, missing: int) -> None:
        assert np.array_equal(read_with("end mark is missing", PNG[:-missing]), PIXELS)

    def test_bytes_behind_the_end(self) -> None:
        assert np.array_equal(read_with("7 bytes behind the end", PNG + b"trailer"), PIXELS)

    @pytest.mark.parametrize("interlaced", [False, True])
    @pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
    def test_cut(self, part: float, interlaced: bool) -> None:
        data = png_bytes(PIXELS, 8, 2, interlaced=interlaced)
        data = data[: int(len(data) * part)]
        with pytest.raises(ImageError, match=r"cut short.*--allow-truncated"):
            read_picture(data)
        rgb = read_with("the missing part is black", data, allow_truncated=True)
        right = (rgb == PIXELS).all(axis=2)
        assert right.mean() > part - 0.15 and (rgb[~right] == 0).mean() > 0.9

    def test_cut_with_alpha_is_transparent(self) -> None:
        data = png_bytes(np.dstack([PIXELS, np.full((40, 56), 255)]), 8, 6)
        with pytest.warns(SdcodecWarning, match="the missing part is transparent"):
            picture = read_picture(data[: len(data) // 2], allow_truncated=True)
        assert picture.alpha is not None and picture.alpha[0, 0] == 255 and picture.alpha[-1, -1] == 0

    def test_image_data_that_is_too_short(self) -> None:
        head, raw = PNG[: PNG.index(b"IDAT") - 4], bytes(20 * (1 + 56 * 3))
        data = head + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
        with pytest.raises(ImageError):
            read_picture(data)
        assert read_with("the missing part is black", data, allow_truncated=True).shape == PIXELS.shape

    def test_size_is_checked_before_anything_is_inflated(self) -> None:
        header = chunk(b"IHDR", (1 << 30).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0")
        bomb = SIGNATURE + header + chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
        with pytest.raises(ImageError, match="pixels"):
            read_picture(bomb, allow_truncated=True)


VARIANTS: list[dict[str, object]] = [
    {},
    {"progressive": True},
    {"subsampling": "4:2:0"},
    {"restart_marker_blocks": 2},
    {"quality": 100, "optimize": True},
]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
class TestJpeg:
    def test_missing_end_mark(self, options: dict[str, object]) -> None:
        data = jpeg(**options)
        expected = read_picture(data).rgb
        for ending in (b"", b"\xff"):
            assert np.array_equal(read_with("end mark is missing", data[:-2] + ending), expected)

    def test_cut(self, options: dict[str, object]) -> None:
        data = jpeg(**options)
        start = data.index(b"\xff\xda")
        for length in (start + 20, (start + len(data)) // 2, len(data) - 20):
            with pytest.raises(ImageError, match=r"cut short.*--allow-truncated"):
                read_picture(data[:length])
            assert read_with("cut short", data[:length], allow_truncated=True).shape == PIXELS.shape

    def test_bytes_behind_the_end(self, options: dict[str, object]) -> None:
        data = jpeg(**options)
        rgb = read_with("9 bytes behind the end", data + b"a trailer")
        assert np.array_equal(rgb, read_picture(data).rgb)


def test_progressive_jpeg_cut_between_scans_is_cut() -> None:
    data = jpeg(progressive=True)
    last = data.rindex(b"\xff\xda")
    last = max(data.rindex(b"\xff\xc4", 0, last), 0)  # the table of the last scan
    with pytest.raises(ImageError, match="cut short"):
        read_picture(data[:last])


def test_frames_of_a_multi_picture_file_are_no_trailing_bytes() -> None:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "MPO", save_all=True, append_images=[Image.fromarray(PIXELS[:, ::-1])])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_picture(buffer.getvalue())
    assert ["has 2 frames" in str(own.message) for own in caught] == [True]


@pytest.mark.parametrize("kind", ["BMP", "PPM", "TIFF"])
def test_other_formats_that_are_cut(kind: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, kind)
    data = buffer.getvalue()[:-2000]
    with pytest.raises(ImageError):
        read_picture(data)
    if kind != "TIFF":  # its directory is at its end
        rgb = read_with("filled with zeros", data, allow_truncated=True)
        assert (rgb == PIXELS).mean() > 0.6


@pytest.mark.parametrize("make", [lambda: PNG, jpeg])
def test_whole_files_give_no_warning(make: Callable[[], bytes], tmp_path: Path) -> None:
    (tmp_path / "own").write_bytes(make())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for allow in (False, True):
            read_picture(tmp_path / "own", allow_truncated=allow)


def test_damaged_files_are_examined_in_linear_time() -> None:
    fill = jpeg()[:-2] + b"\xff" * 1_000_000 + b"\0"
    many = SIGNATURE + PNG[8:33] + b"\0\0\0\0teXtcrc!" * 50_000 + PNG[33:]
    start = time.process_time()
    read_with("end mark is missing", fill)
    with pytest.warns(SdcodecWarning) as caught:
        assert np.array_equal(read_picture(many).rgb, PIXELS)
    assert len(caught) == 1
    assert time.process_time() - start < 5


def test_size_of_a_jpeg_is_checked_before_it_is_decoded() -> None:
    data = bytearray(jpeg()[:-2])
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = b"\x10\0\x10\0"
    with pytest.raises(ImageError, match="above the limit"):
        read_picture(bytes(data), max_pixels=1 << 20)


def test_any_damage_gives_an_error_of_ours_or_a_picture() -> None:
    random = np.random.default_rng(2)
    sources = [PNG, jpeg(), jpeg(progressive=True), png_bytes(PIXELS[:, :, 0], 8, 3, before=[(b"PLTE", bytes(768))])]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(400):
            data = bytearray(sources[number % len(sources)])
            for _ in range(random.integers(1, 4)):
                data[random.integers(2, min(len(data), 300))] = random.integers(0, 256)
            with contextlib.suppress(ImageError):
                read_picture(bytes(data), allow_truncated=bool(number & 4), max_pixels=1 << 16)
