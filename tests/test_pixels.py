"""Images of every kind become upright 8-bit sRGB; other files are refused."""

from __future__ import annotations

import io
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from sdcodec.errors import FormatError, ImageError, OptionError
from sdcodec.pixels import (
    pack_alpha,
    read_picture,
    smooth_hidden_colour,
    to_image_file,
    to_pil,
    unpack_alpha,
)

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6" dc:title="kept"/></x:xmpmeta>'


def colours(width: int = 24, height: int = 16) -> np.ndarray:
    """Make a smooth picture without symmetry: uint8 [H, W, 3]."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack(
        [x * 255 // (width - 1), y * 255 // (height - 1), (x + 2 * y) * 255 // (width + 2 * height)], -1
    ).astype(np.uint8)


def file_bytes(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def adobe_like_profile() -> bytes:
    """Make a valid profile far from sRGB: its red and green primaries are swapped."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    (count,) = struct.unpack_from(">I", profile, 128)
    entries = {bytes(profile[132 + 12 * i : 136 + 12 * i]): 132 + 12 * i for i in range(count)}
    red, green = entries[b"rXYZ"], entries[b"gXYZ"]
    profile[red + 4 : red + 12], profile[green + 4 : green + 12] = (
        profile[green + 4 : green + 12],
        profile[red + 4 : red + 12],
    )
    return bytes(profile)


def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def exif_with(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F] = "A camera with a name longer than four bytes"
    exif[0x0112] = orientation
    exif.get_ifd(0x8769)[0x9003] = "2024:01:02 03:04:05"
    exif[0x8769] = 0  # its place, which the writer fills in
    return exif


class TestModes:
    def test_rgb_is_taken_as_it_is(self) -> None:
        picture = read_picture(Image.fromarray(colours()))
        assert np.array_equal(picture.rgb, colours())
        assert picture.rgb.flags.writeable
        assert picture.alpha is picture.icc is picture.exif is picture.xmp is None

    def test_black_and_white(self) -> None:
        image = Image.fromarray(colours()).convert("1")
        assert set(np.unique(read_picture(image).rgb)) == {0, 255}

    @pytest.mark.parametrize("mode", ["L", "YCbCr", "HSV", "RGBX", "P", "CMYK", "LAB"])
    def test_mode_becomes_rgb(self, mode: str) -> None:
        if mode == "LAB":
            to_lab = ImageCms.buildTransform(
                ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
            )
            image = ImageCms.applyTransform(Image.fromarray(colours()), to_lab)
        elif mode == "RGBX":
            image = Image.frombytes("RGBX", (24, 16), np.dstack([colours(), np.zeros((16, 24), np.uint8)]).tobytes())
        else:
            image = Image.fromarray(colours()).convert(mode)
        picture = read_picture(image)
        assert picture.rgb.shape == (16, 24, 3) and picture.rgb.dtype == np.uint8
        assert picture.alpha is None
        if mode not in ("L", "P"):
            assert np.abs(picture.rgb.astype(int) - colours()).mean() <= 4

    @pytest.mark.parametrize("mode", ["LA", "RGBA", "PA", "RGBa", "La"])
    def test_alpha_is_kept(self, mode: str) -> None:
        alpha = np.linspace(1, 255, 24 * 16).astype(np.uint8).reshape(16, 24)
        image = Image.fromarray(np.full((16, 24, 3), 255, np.uint8))
        image.putalpha(Image.fromarray(alpha))
        if mode == "PA":
            image = image.convert("P").convert("PA")
            image.putalpha(Image.fromarray(alpha))
        elif mode == "La":
            image = image.convert("LA").convert("La")
        else:
            image = image.convert(mode)
        picture = read_picture(image)
        assert picture.alpha is not None
        assert np.array_equal(picture.alpha, alpha)
        assert picture.rgb.min() >= 254

    def test_opaque_alpha_is_dropped(self) -> None:
        assert read_picture(Image.fromarray(colours()).convert("RGBA")).alpha is None

    def test_palette_with_a_transparent_colour(self) -> None:
        image = Image.fromarray((np.arange(16, dtype=np.uint8) % 4).reshape(4, 4)).convert("P")
        image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
        picture = read_picture(file_bytes(image, "PNG", transparency=2))
        assert picture.alpha is not None
        assert picture.alpha[0].tolist() == [255, 255, 0, 255]
        assert picture.rgb[0, 1].tolist() == [0, 255, 0]

    def test_rgb_with_a_transparent_colour(self) -> None:
        picture = read_picture(
            file_bytes(Image.fromarray(colours()), "PNG", transparency=tuple(colours()[3, 5].tolist()))
        )
        assert picture.alpha is not None and picture.alpha[3, 5] == 0 and (picture.alpha == 0).sum() == 1

    @pytest.mark.parametrize("kind", ["PNG", "TIFF"])
    def test_sixteen_bit_grey(self, kind: str) -> None:
        values = np.array([[0, 128, 257, 32768, 65535]], np.uint16)
        picture = read_picture(file_bytes(Image.fromarray(values), kind))
        assert picture.rgb[0, :, 0].tolist() == [0, 0, 1, 128, 255]

    def test_big_endian_sixteen_bit_grey(self) -> None:
        image = Image.frombytes("I;16B", (2, 1), b"\x01\x01\xff\xff")
        assert read_picture(image).rgb[0, :, 1].tolist() == [1, 255]

    def test_integers_in_sixteen_bits(self) -> None:
        assert read_picture(Image.fromarray(np.array([[0, 65535]], np.int32))).rgb[0, :, 2].tolist() == [0, 255]

    def test_integers_beyond_sixteen_bits_are_refused(self) -> None:
        with pytest.raises(ImageError, match="16 bits"):
            read_picture(Image.fromarray(np.array([[0, 65536]], np.int32)))

    def test_sixteen_bit_rgb_png(self) -> None:
        assert read_picture(sixteen_bit_png()).rgb.tolist() == [[[255, 128, 1], [0, 0, 0]]]

    def test_floats_are_refused(self) -> None:
        with pytest.raises(ImageError, match="8 or 16 bits"):
            read_picture(Image.fromarray(np.zeros((4, 4), np.float32)))

    def test_first_frame_of_an_animation(self) -> None:
        frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
        picture = read_picture(file_bytes(frames[0], "GIF", save_all=True, append_images=frames[1:]))
        assert picture.rgb[0, 0].tolist() == [255, 0, 0]


def sixteen_bit_png() -> bytes:
    """Two pixels of 16-bit RGB, written by hand because Pillow does not write them."""
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    samples = struct.pack(">6H", 65535, 32896, 257, 0, 0, 0)
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" + samples))
        + chunk(b"IEND", b"")
    )


class TestArrays:
    @pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3)])
    def test_shapes(self, shape: tuple[int, ...]) -> None:
        array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
        picture = read_picture(array)
        assert picture.rgb.shape == (5, 7, 3) and picture.alpha is None
        assert np.array_equal(picture.rgb[..., 0], array.reshape(5, 7, -1)[..., 0])

    def test_alpha(self) -> None:
        array = np.arange(5 * 7 * 4, dtype=np.uint8).reshape(5, 7, 4)
        picture = read_picture(array)
        assert picture.alpha is not None and np.array_equal(picture.alpha, array[..., 3])

    def test_the_array_of_the_caller_is_not_shared(self) -> None:
        array = colours()
        picture = read_picture(array)
        array[:] = 0
        assert picture.rgb.max() == 255

    @pytest.mark.parametrize(
        "array",
        [np.zeros((4, 4, 3)), np.zeros((4, 4, 2), np.uint8), np.zeros(4, np.uint8), np.zeros((1, 4, 4, 3), np.uint8)],
    )
    def test_other_arrays_are_refused(self, array: np.ndarray) -> None:
        with pytest.raises(ImageError, match="uint8"):
            read_picture(array)

    def test_no_pixels(self) -> None:
        with pytest.raises(ImageError, match="no pixels"):
            read_picture(np.zeros((0, 4, 3), np.uint8))

    def test_something_else(self) -> None:
        with pytest.raises(ImageError, match="list is no image"):
            read_picture([1, 2, 3])  # type: ignore[arg-type]


class TestOrientation:
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
    def test_is_applied(self, orientation: int, kind: str) -> None:
        stored = colours(48, 32)
        expected = stored_as_shown(stored, orientation)
        data = file_bytes(Image.fromarray(stored), kind, exif=exif_with(orientation))
        picture = read_picture(data, metadata=frozenset({"exif"}))
        assert picture.rgb.shape == expected.shape
        assert np.abs(picture.rgb.astype(int) - expected).mean() < 4
        assert picture.exif is not None
        kept = Image.Exif()
        kept.load(picture.exif)
        assert 0x0112 not in kept
        assert kept[0x010F] == "A camera with a name longer than four bytes"
        assert kept.get_ifd(0x8769)[0x9003] == "2024:01:02 03:04:05"

    def test_broken_exif_turns_nothing(self) -> None:
        data = file_bytes(Image.fromarray(colours()), "PNG", exif=b"Exif\0\0garbage")
        assert read_picture(data).rgb.shape == (16, 24, 3)
        with pytest.raises(ImageError, match="leave exif out"):
            read_picture(data, metadata=frozenset({"exif"}))

    def test_the_image_of_the_caller_is_not_turned(self) -> None:
        image = Image.open(io.BytesIO(file_bytes(Image.fromarray(colours()), "JPEG", exif=exif_with(6))))
        assert read_picture(image).rgb.shape == (24, 16, 3)
        assert image.size == (24, 16)


def stored_as_shown(stored: np.ndarray, orientation: int) -> np.ndarray:
    """Store pixels so that they are shown as given (EXIF 2.32, 4.6.4)."""
    rows_are_rows = orientation <= 4
    shown = stored if rows_are_rows else stored.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        shown = shown[::-1]
    if orientation in (2, 3, 6, 7):
        shown = shown[:, ::-1]
    return shown


class TestColour:
    def test_profile_is_converted_to_srgb(self) -> None:
        data = file_bytes(Image.fromarray(colours()), "PNG", icc_profile=adobe_like_profile())
        picture = read_picture(data)
        assert picture.icc is None
        swapped = colours()[..., [1, 0, 2]]
        assert np.abs(picture.rgb.astype(int) - swapped).max() <= 2

    def test_profile_and_values_can_be_kept(self) -> None:
        data = file_bytes(Image.fromarray(colours()), "PNG", icc_profile=adobe_like_profile())
        picture = read_picture(data, metadata=frozenset({"icc"}))
        assert np.array_equal(picture.rgb, colours())
        assert picture.icc == adobe_like_profile()

    def test_srgb_profile_changes_no_value(self) -> None:
        data = file_bytes(Image.fromarray(colours()), "PNG", icc_profile=srgb_profile())
        assert np.array_equal(read_picture(data).rgb, colours())

    def test_profile_of_a_palette_image(self) -> None:
        image = Image.fromarray(colours()).quantize(64)
        plain = np.asarray(image.convert("RGB"))
        picture = read_picture(file_bytes(image, "PNG", icc_profile=adobe_like_profile()))
        assert np.abs(picture.rgb.astype(int) - plain[..., [1, 0, 2]]).max() <= 2

    def test_profile_with_alpha(self) -> None:
        image = Image.fromarray(colours())
        image.putalpha(77)
        picture = read_picture(file_bytes(image, "PNG", icc_profile=adobe_like_profile()))
        assert picture.alpha is not None and (picture.alpha == 77).all()
        assert np.abs(picture.rgb.astype(int) - colours()[..., [1, 0, 2]]).max() <= 2

    @pytest.mark.parametrize("profile", [b"no profile at all", b"\0" * 200])
    def test_broken_profile_is_passed_over(self, profile: bytes) -> None:
        picture = read_picture(file_bytes(Image.fromarray(colours()), "PNG", icc_profile=profile))
        assert np.array_equal(picture.rgb, colours())

    def test_rgb_profile_on_cmyk_is_passed_over(self) -> None:
        image = Image.fromarray(colours()).convert("CMYK")
        data = file_bytes(image, "TIFF", icc_profile=adobe_like_profile())
        picture = read_picture(data, metadata=frozenset({"icc"}))
        assert np.array_equal(picture.rgb, np.asarray(image.convert("RGB")))
        assert picture.icc is None

    def test_rgb_profile_on_grey(self) -> None:
        image = Image.fromarray(colours()[..., 0])
        assert read_picture(file_bytes(image, "PNG", icc_profile=srgb_profile())).rgb.shape == (16, 24, 3)


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
        with pytest.raises(ImageError, match=r"cut\.jpg: damaged or unsupported image \(image file is truncated"):
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
