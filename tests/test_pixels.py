"""Images of every kind become upright 8-bit sRGB; other files are refused."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from pixel_images import adobe_like_profile, colours, exif_with, file_bytes, srgb_profile
from sdcodec.errors import ImageError, SdcodecWarning
from sdcodec.pixels import (
    read_picture,
)


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
        with pytest.warns(SdcodecWarning, match="2 frames"):
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
        with pytest.warns(SdcodecWarning, match="EXIF"):
            assert read_picture(data).rgb.shape == (16, 24, 3)
        with pytest.warns(SdcodecWarning), pytest.raises(ImageError, match="leave exif out"):
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
