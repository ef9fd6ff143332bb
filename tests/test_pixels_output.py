"""Refused images, metadata, alpha, hidden colour, and written image files."""

from __future__ import annotations

import io
import sys
import zlib
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngStream

from pixel_images import XMP, adobe_like_profile, colours, exif_with, file_bytes
from sdcodec.errors import FormatError, ImageError, OptionError
from sdcodec.pixels import (
    pack_alpha,
    read_picture,
    smooth_hidden_colour,
    to_image_file,
    to_pil,
    unpack_alpha,
)
from sdcodec.pixels.alpha import most_alpha_bytes
from sdcodec.pixels.png import chunk_bytes


class TestRefusals:
    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(ImageError, match=r"nothing\.png: no such file"):
            read_picture(tmp_path / "nothing.png")

    def test_empty_file(self, tmp_path: Path) -> None:
        (tmp_path / "empty.png").touch()
        with pytest.raises(ImageError, match=r"empty\.png: the file is empty"):
            read_picture(str(tmp_path / "empty.png"))

    def test_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ImageError, match="is a folder"):
            read_picture(tmp_path)

    def test_not_an_image(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("no image", encoding="utf-8")
        with pytest.raises(ImageError, match=r"notes\.txt: not an image"):
            read_picture(tmp_path / "notes.txt")

    def test_sdc_file(self) -> None:
        with pytest.raises(ImageError, match="decode"):
            read_picture(b"\x89SDC\x10" + bytes(20))

    def test_drawing(self) -> None:
        with pytest.raises(ImageError, match="drawing"):
            read_picture(file_bytes(Image.fromarray(colours()), "EPS"))

    def test_file_that_cannot_be_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("builtins.open", refuse)
        with pytest.raises(ImageError, match="Permission denied"):
            read_picture(tmp_path / "photo.png")

    def test_path_with_a_null(self) -> None:
        with pytest.raises(ImageError):
            read_picture("photo\0.png")

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP"])
    def test_truncated(self, kind: str) -> None:
        noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
        data = file_bytes(Image.fromarray(noise), kind)
        for length in range(1, len(data) - 100, max(1, len(data) // 40)):
            with pytest.raises(ImageError):
                read_picture(data[:length])

    def test_truncated_jpeg_names_its_file(self, tmp_path: Path) -> None:
        path = tmp_path / "cut.jpg"
        path.write_bytes(file_bytes(Image.fromarray(colours(256, 256)), "JPEG")[:-900])
        with pytest.raises(ImageError, match=r"cut\.jpg: the file is cut short"):
            read_picture(path)

    def test_closed_image(self, tmp_path: Path) -> None:
        path = tmp_path / "photo.png"
        Image.fromarray(colours()).save(path)
        image = Image.open(path)
        image.close()
        with pytest.raises(ImageError, match=r"photo\.png"):
            read_picture(image)

    def test_heic_without_its_reader(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pillow_heif", None)
        with pytest.raises(ImageError, match="pip install pillow-heif"):
            read_picture(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64))

    def test_heic_with_its_reader(self) -> None:
        pillow_heif = pytest.importorskip("pillow_heif")
        buffer = io.BytesIO()
        pillow_heif.from_pillow(Image.fromarray(colours(64, 48))).save(buffer, quality=90)
        assert read_picture(buffer.getvalue()).rgb.shape == (48, 64, 3)


class TestLimits:
    def test_size_is_checked_before_pixels_are_decoded(self) -> None:
        data = file_bytes(Image.new("RGB", (100, 100)), "PNG")
        cut = data[:60]  # header only: decoding would fail otherwise
        with pytest.raises(ImageError, match="100 x 100 are 10000 pixels, above the limit of 9999"):
            read_picture(cut, max_pixels=9999)

    def test_at_the_limit(self) -> None:
        assert read_picture(Image.new("RGB", (100, 100)), max_pixels=10_000).rgb.shape == (100, 100, 3)

    def test_arrays_too(self) -> None:
        with pytest.raises(ImageError, match="above the limit"):
            read_picture(colours(), max_pixels=10)

    def test_limit_of_pillow(self, monkeypatch: pytest.MonkeyPatch) -> None:
        data = file_bytes(Image.new("RGB", (100, 100)), "PNG")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
        with pytest.raises(ImageError, match="MAX_IMAGE_PIXELS"):
            read_picture(data)


class TestAlpha:
    @pytest.mark.parametrize("size", [(1, 1), (7, 3), (64, 64)])
    @pytest.mark.parametrize("values", [(0, 255), (0, 100, 200, 255), (255,), (0,), (128,)])
    def test_round_trip(self, size: tuple[int, int], values: tuple[int, ...]) -> None:
        alpha = np.random.default_rng(0).choice(np.array(values, np.uint8), size)
        assert np.array_equal(unpack_alpha(pack_alpha(alpha), size[1], size[0]), alpha)

    def test_masks_take_one_bit(self) -> None:
        mask = (np.random.default_rng(0).random((64, 64)) > 0.5).astype(np.uint8) * 255
        assert len(pack_alpha(mask)) < 64 * 64 / 8 * 1.25 + 100

    def test_damage_is_refused(self) -> None:
        data = pack_alpha(np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8))
        for length in range(len(data) - 40):  # what comes last are checksums
            with pytest.raises(FormatError):
                unpack_alpha(data[:length], 32, 32)

    def test_other_size_is_refused(self) -> None:
        with pytest.raises(FormatError, match="size"):
            unpack_alpha(pack_alpha(np.zeros((4, 4), np.uint8)), 5, 4)

    def test_colour_image_is_refused(self) -> None:
        with pytest.raises(FormatError):
            unpack_alpha(file_bytes(Image.fromarray(colours()), "PNG"), 24, 16)

    def test_picture_to_pil_and_back(self) -> None:
        alpha = np.arange(24 * 16, dtype=np.uint16).reshape(16, 24).astype(np.uint8)
        picture = read_picture(np.dstack([colours(), alpha]))
        again = read_picture(to_pil(picture))
        assert np.array_equal(again.rgb, picture.rgb)
        assert again.alpha is not None and np.array_equal(again.alpha, alpha)


class TestHiddenColour:
    def test_visible_pixels_stay(self) -> None:
        alpha = (np.indices((16, 24)).sum(0) % 3 * 100).astype(np.uint8)
        smooth = smooth_hidden_colour(colours(), alpha)
        assert np.array_equal(smooth[alpha > 0], colours()[alpha > 0])

    @pytest.mark.parametrize("shape", [(1, 1), (1, 9), (13, 1), (17, 31)])
    def test_hidden_pixels_take_the_colour_around_them(self, shape: tuple[int, int]) -> None:
        rgb = np.random.default_rng(3).integers(0, 256, (*shape, 3), np.uint8)
        alpha = np.zeros(shape, np.uint8)
        alpha[0, 0] = 255
        rgb[0, 0] = (10, 200, 30)
        assert (smooth_hidden_colour(rgb, alpha) == (10, 200, 30)).all()

    def test_nothing_visible(self) -> None:
        assert np.ptp(smooth_hidden_colour(colours(), np.zeros((16, 24), np.uint8))) == 0

    def test_all_visible(self) -> None:
        assert np.array_equal(smooth_hidden_colour(colours(), np.full((16, 24), 1, np.uint8)), colours())


class TestSaving:
    @pytest.mark.parametrize("extension", ["png", "webp", "tiff", "bmp", "ppm"])
    def test_without_loss(self, extension: str) -> None:
        assert np.array_equal(read_picture(to_image_file(Image.fromarray(colours()), extension)).rgb, colours())

    def test_unknown_format(self) -> None:
        with pytest.raises(OptionError, match="xyz"):
            to_image_file(Image.fromarray(colours()), "xyz")

    def test_transparency_in_jpeg(self) -> None:
        with pytest.raises(ImageError, match="transparency"):
            to_image_file(Image.new("RGBA", (4, 4)), "jpeg")


class TestMetadata:
    def test_nothing_is_kept_unless_asked(self) -> None:
        data = file_bytes(
            Image.fromarray(colours()), "JPEG", exif=exif_with(1), xmp=XMP, icc_profile=adobe_like_profile()
        )
        picture = read_picture(data)
        assert picture.exif is picture.xmp is picture.icc is None

    def test_xmp_is_kept_without_its_orientation(self) -> None:
        picture = read_picture(file_bytes(Image.fromarray(colours()), "JPEG", xmp=XMP), metadata=frozenset({"xmp"}))
        assert picture.xmp is not None
        assert b'dc:title="kept"' in picture.xmp and b"Orientation" not in picture.xmp

    def test_exif_is_kept_to_the_byte_where_it_has_no_orientation(self) -> None:
        exif = exif_with(1)
        del exif[0x0112]
        picture = read_picture(file_bytes(Image.fromarray(colours()), "JPEG", exif=exif), metadata=frozenset({"exif"}))
        assert picture.exif == exif.tobytes().removeprefix(b"Exif\0\0")

    def test_layout_of_a_tiff_is_not_kept(self) -> None:
        data = file_bytes(Image.fromarray(colours()), "TIFF", exif=exif_with(1))
        picture = read_picture(data, metadata=frozenset({"exif"}))
        assert picture.exif is not None
        kept = Image.Exif()
        kept.load(picture.exif)
        assert set(kept) == {0x010F, 0x8769}

    def test_image_without_any(self) -> None:
        picture = read_picture(
            file_bytes(Image.fromarray(colours()), "PNG"), metadata=frozenset({"exif", "xmp", "icc"})
        )
        assert picture.exif is picture.xmp is picture.icc is None

    def test_unknown_kind(self) -> None:
        with pytest.raises(OptionError, match="iptc"):
            read_picture(Image.fromarray(colours()), metadata=frozenset({"iptc"}))

    @pytest.mark.parametrize("extension", ["png", "jpeg", "webp", "tiff"])
    def test_survives_saving(self, extension: str) -> None:
        every = frozenset({"exif", "xmp", "icc"})
        data = file_bytes(
            Image.fromarray(colours()), "JPEG", exif=exif_with(1), xmp=XMP, icc_profile=adobe_like_profile()
        )
        picture = read_picture(data, metadata=every)
        again = read_picture(to_image_file(to_pil(picture), extension), metadata=every)
        assert again.icc == picture.icc
        assert again.xmp == picture.xmp
        assert again.exif is not None and picture.exif is not None
        assert b"A camera" in again.exif and b"2024:01:02" in again.exif


def test_texts_in_an_alpha_channel_are_not_unpacked() -> None:
    """Each of them may be a thousand times as long as its chunk."""
    alpha = np.arange(32 * 32, dtype=np.uint8).reshape(32, 32)
    packed = pack_alpha(alpha)
    text = chunk_bytes(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(1 << 20)))
    file = packed[:33] + text + packed[33:]
    with mock.patch.object(PngStream, "chunk_iTXt", autospec=True, side_effect=PngStream.chunk_iTXt) as unpacked:
        assert np.array_equal(unpack_alpha(file, 32, 32), alpha)
        assert not unpacked.called
        with Image.open(io.BytesIO(file)) as image:
            image.load()
        assert unpacked.called


def test_an_alpha_channel_in_many_chunks_is_read_up_to_a_limit() -> None:
    """Each chunk takes as long as many pixels."""
    packed = pack_alpha(np.zeros((32, 32), np.uint8))
    empty = chunk_bytes(b"IDAT", b"")
    count = most_alpha_bytes(32, 32) // 512 - 3  # besides header, pixels and end
    assert not unpack_alpha(packed[:33] + count * empty + packed[33:], 32, 32).any()
    with pytest.raises(FormatError, match="alpha channel is damaged"):
        unpack_alpha(packed[:33] + (count + 1) * empty + packed[33:], 32, 32)
    longer = packed[:33] + chunk_bytes(b"IDAT", bytes(most_alpha_bytes(32, 32))) + packed[33:]
    with pytest.raises(FormatError, match="alpha channel is damaged"):
        unpack_alpha(longer, 32, 32)
