"""Pillow plugin: saving, its keywords, modes, metadata and orientation."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps
from PIL.PngImagePlugin import PngInfo

import sdcodec
import sdcodec.pillow
from conftest import photograph
from sdcodec.container import Container
from sdcodec.pixels.metadata import EXIF_PREFIX

ORIENTATION = 274


@pytest.fixture(scope="module", autouse=True)
def _installed(random_bundle: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SDCODEC_HOME", str(random_bundle.parent))
        yield


def saved(image: Image.Image, **keywords: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "SDC", **({"model": "random", "effort": 0} | keywords))
    return buffer.getvalue()


def reopened(image: Image.Image, **keywords: Any) -> Image.Image:
    return Image.open(io.BytesIO(saved(image, **keywords)))


def rgb() -> Image.Image:
    return Image.fromarray(photograph(24, 40))


def exif_of(orientation: int | None = None) -> Image.Exif:
    exif = Image.Exif()
    exif[271] = "Maker"
    if orientation is not None:
        exif[ORIENTATION] = orientation
    return exif


def phone_photo(orientation: int = 6) -> Image.Image:
    buffer = io.BytesIO()
    rgb().save(buffer, "PNG", exif=exif_of(orientation))
    return Image.open(buffer)


def test_bytes_are_those_of_encode():
    assert saved(rgb(), quality=30) == sdcodec.encode(rgb(), quality=30, model="random", effort=0, device="cpu")


@pytest.mark.parametrize("quality", [20, 20.0, np.float32(20), np.int64(20)])
def test_quality_is_any_number(quality: Any):
    assert saved(rgb(), quality=quality) == saved(rgb(), quality=20)


def test_size_grows_with_quality_and_50_is_the_default():
    sizes = [len(saved(rgb(), quality=quality)) for quality in (0, 40, 80)]
    assert sizes == sorted(set(sizes))
    assert saved(rgb()) == saved(rgb(), quality=50)


@pytest.mark.parametrize("quality", [-1, 101, "keep", float("nan"), True])
def test_a_quality_out_of_range_is_a_valueerror(quality: Any):
    with pytest.raises(ValueError, match=r"quality.*100"):
        saved(rgb(), quality=quality)


def test_budgets_are_met():
    assert len(saved(rgb(), target_bytes=300)) <= 300
    assert len(saved(rgb(), target_bpp=3)) <= 3 * 24 * 40 / 8
    with pytest.raises(OSError, match="bytes"):
        saved(rgb(), target_bytes=3)


def test_keywords_of_other_formats_are_ignored():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert saved(rgb(), optimize=True, progressive=True, subsampling=0, dpi=(72, 72), lossless=True) == saved(rgb())


@pytest.mark.parametrize(
    ("typo", "meant"), [("qualty", "quality"), ("target_byte", "target_bytes"), ("icc_profil", "icc_profile")]
)
def test_a_mistyped_keyword_is_ignored_with_a_warning(typo: str, meant: str):
    with pytest.warns(sdcodec.SdcodecWarning, match=f"'{typo}' is ignored; '{meant}' is known"):
        saved(rgb(), **{typo: 3})


def test_save_all_writes_a_single_frame_and_refuses_more(tmp_path: Path):
    assert saved(rgb(), save_all=True) == saved(rgb())
    with pytest.raises(OSError, match="3 frames"):
        rgb().save(tmp_path / "a.sdc", save_all=True, append_images=[rgb(), rgb()])
    assert not (tmp_path / "a.sdc").exists()


def test_a_failed_save_leaves_no_new_file(tmp_path: Path):
    with pytest.raises(ValueError, match="quality"):
        rgb().save(tmp_path / "a.sdc", quality=200)
    with pytest.raises(OSError, match="unknown model"):
        rgb().save(tmp_path / "a.sdc", model="nonesuch")
    assert list(tmp_path.iterdir()) == []


def test_an_image_is_saved_onto_its_own_file(tmp_path: Path):
    path = tmp_path / "A.SDC"
    rgb().save(path, model="random", effort=0)
    with Image.open(path) as image:
        image.save(path, quality=20, model="random", effort=0)
    with Image.open(path) as image:
        assert image.size == (40, 24)
        image.load()
    path.rename(tmp_path / "b.sdc")


def test_saving_writes_once_at_the_current_position():
    class Pipe:
        written: list[bytes] = []  # noqa: RUF012

        def write(self, data: bytes) -> int:
            self.written.append(data)
            return len(data)

    pipe = Pipe()
    rgb().save(pipe, "SDC", model="random", effort=0)
    assert pipe.written == [saved(rgb())]
    buffer = io.BytesIO(b"before")
    buffer.seek(6)
    rgb().save(buffer, "SDC", model="random", effort=0)
    assert buffer.getvalue() == b"before" + saved(rgb()) and buffer.tell() == len(buffer.getvalue())


# Modes


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "LAB", "RGBX", "I", "I;16"])
def test_modes_without_alpha_become_rgb(mode: str):
    grey = rgb().convert("L")
    if mode.startswith("I"):
        image = Image.fromarray(np.asarray(grey).astype(np.int32) * 257).convert(mode)
    elif mode == "LAB":
        lab = ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(rgb(), ImageCms.createProfile("sRGB"), lab, outputMode="LAB")
    else:
        image = rgb().convert(mode)
    assert image.mode == mode
    expected = grey if mode.startswith("I") else image.convert("RGB") if mode != "LAB" else None
    assert reopened(image).mode == "RGB"
    if expected is not None:
        assert saved(image) == saved(expected)


def with_alpha(mode: str) -> Image.Image:
    image = rgb().convert({"PA": "P", "La": "LA", "RGBa": "RGBA"}.get(mode, mode))
    if mode == "PA":
        image = image.convert("PA")
    image.putalpha(Image.fromarray(np.where(np.indices((24, 40))[1] < 20, 60, 255).astype(np.uint8)))
    return image.convert(mode) if image.mode != mode else image


@pytest.mark.parametrize("mode", ["LA", "PA", "RGBA", "La", "RGBa"])
def test_alpha_is_kept(mode: str):
    image = with_alpha(mode)
    assert image.mode == mode
    alpha = np.asarray(reopened(image).getchannel("A"))
    assert set(alpha[:, :20].flat) == {60} and set(alpha[:, 20:].flat) == {255}


@pytest.mark.parametrize("transparency", [0, bytes([0, 100] + 254 * [255])])
def test_transparency_of_a_palette_is_kept(transparency: int | bytes):
    image = Image.fromarray((np.indices((24, 40))[1] % 3).astype(np.uint8)).convert("P")
    image.info["transparency"] = transparency
    alpha = np.asarray(reopened(image).getchannel("A"))[0, :3].tolist()
    assert alpha == ([0, 255, 255] if transparency == 0 else [0, 100, 255])


def test_opaque_alpha_is_dropped():
    assert reopened(rgb().convert("RGBA")).mode == "RGB"


def test_mode_f_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sdcodec, "encode", None)
    with pytest.raises(OSError, match="cannot write mode F as SDC"):
        saved(rgb().convert("L").convert("F"))


# Metadata


def test_metadata_is_kept_only_if_passed():
    image = phone_photo()
    image.info |= {"xmp": b"<x/>", "icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()}
    assert reopened(image).info == {}
    assert set(reopened(image, xmp=image.info["xmp"]).info) == {"xmp"}


def test_both_forms_of_exif_and_an_exif_object_store_the_same():
    tiff = exif_of().tobytes().removeprefix(EXIF_PREFIX)
    files = {saved(rgb(), exif=exif) for exif in (tiff, EXIF_PREFIX + tiff, exif_of(), bytearray(tiff))}
    assert len(files) == 1
    image = Image.open(io.BytesIO(files.pop()))
    assert image.getexif()[271] == "Maker" and image.info["exif"] == EXIF_PREFIX + tiff


@pytest.mark.parametrize("keyword", ["exif", "xmp", "icc_profile"])
@pytest.mark.parametrize("value", [None, b""])
def test_none_and_empty_metadata_mean_none(keyword: str, value: bytes | None):
    assert saved(rgb(), **{keyword: value}) == saved(rgb())
    assert saved(rgb(), exif=Image.Exif()) == saved(rgb())


def test_xmp_is_text_or_bytes():
    assert saved(rgb(), xmp="<x>é</x>") == saved(rgb(), xmp="<x>é</x>".encode())
    assert reopened(rgb(), xmp="<x/>").info["xmp"] == b"<x/>"


def test_metadata_of_a_wrong_type_is_a_valueerror():
    with pytest.raises(ValueError, match="exif is int; give bytes"):
        saved(rgb(), exif=3)


def test_damaged_exif_is_refused():
    with pytest.raises(OSError, match="EXIF block is damaged"):
        saved(rgb(), exif=b"nonsense")


def test_a_passed_profile_is_that_of_the_pixels(wide: bytes):
    file = saved(rgb(), icc_profile=wide)
    image = Image.open(io.BytesIO(file))
    assert image.info["icc_profile"] == wide
    assert Container.from_bytes(file).blocks == Container.from_bytes(saved(rgb())).blocks


def test_without_a_passed_profile_colours_become_srgb(wide: bytes):
    image = rgb()
    image.info["icc_profile"] = wide
    srgb = ImageCms.profileToProfile(
        rgb(),
        io.BytesIO(wide),
        ImageCms.createProfile("sRGB"),
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    assert saved(image) == saved(image, icc_profile=None) == saved(srgb) != saved(rgb())


@pytest.fixture(scope="module")
def wide() -> bytes:
    """Make an RGB profile with the primaries red and green exchanged."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return data.replace(b"rXYZ", b"tmp!").replace(b"gXYZ", b"rXYZ").replace(b"tmp!", b"gXYZ")


# Orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("passed", ["nothing", "exif", "icc"])
def test_the_picture_is_upright_exactly_once(orientation: int, passed: str, wide: bytes):
    image = phone_photo(orientation)
    upright = ImageOps.exif_transpose(phone_photo(orientation))
    keywords = {"nothing": {}, "exif": {"exif": image.info["exif"]}, "icc": {"icc_profile": wide}}[passed]
    found = Image.open(io.BytesIO(saved(image, **keywords)))
    assert found.size == upright.size and ORIENTATION not in found.getexif()
    assert found.tobytes() == reopened(upright).tobytes()
    assert ImageOps.exif_transpose(found).tobytes() == found.tobytes()
    assert image.getexif()[ORIENTATION] == orientation  # the source is as it was


def test_a_passed_orientation_outweighs_that_of_the_image():
    upright = ImageOps.exif_transpose(phone_photo(6))
    assert reopened(upright, exif=exif_of(1)).tobytes() == reopened(upright).tobytes()
    assert reopened(phone_photo(6), exif=exif_of(1)).size == (40, 24)
    assert reopened(rgb(), exif=exif_of(6)).size == (24, 40)
    assert reopened(phone_photo(6), exif=exif_of(None)).size == (24, 40)


def test_an_edited_exif_of_the_image_counts():
    image = phone_photo(6)
    image.getexif()[ORIENTATION] = 1
    assert reopened(image).size == (40, 24)
    assert reopened(image, exif=image.getexif()).size == (40, 24)
    assert reopened(image, xmp=b"<x/>").size == (40, 24)


def test_the_orientation_of_xmp_is_applied_and_dropped():
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'
    image = reopened(rgb(), xmp=xmp)
    assert image.size == (24, 40) and b"Orientation" not in image.info["xmp"]


def test_the_gamma_of_a_png_counts_with_metadata_too():
    buffer = io.BytesIO()
    info = PngInfo()
    info.add(b"gAMA", (100000).to_bytes(4, "big"))
    rgb().save(buffer, "PNG", pnginfo=info)
    blocks = [
        Container.from_bytes(saved(Image.open(buffer), **keywords)).blocks for keywords in ({}, {"exif": exif_of()})
    ]
    assert blocks[0] == blocks[1] != Container.from_bytes(saved(rgb())).blocks
