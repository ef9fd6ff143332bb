"""The whole way: pictures to files and back."""

from __future__ import annotations

import contextlib
import shutil

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

import sdcodec
from conftest import photograph
from sdcodec import container, windowed
from sdcodec.bundles import store
from sdcodec.container import Container, Header


@pytest.fixture(scope="module")
def codec(random_bundle):
    return sdcodec.Codec(random_bundle, device="cpu", precision="float32")


@pytest.mark.parametrize("size", [(1, 1), (1, 70), (33, 31), (64, 64), (200, 136)])
def test_every_size_comes_back(codec, size):
    encoded = codec.encode(photograph(*size))
    image = codec.decode(encoded.data)
    assert image.size == (size[1], size[0]) and image.mode == "RGB"
    assert (encoded.height, encoded.width) == size


def test_pictures_of_several_blocks_come_back(codec):
    pixels = photograph(560, 1100)
    encoded = codec.encode(pixels, quality=20)
    assert len(Container.from_bytes(encoded.data).blocks) == 6
    assert codec.decode(encoded.data).size == (1100, 560)


def test_windows_change_nothing(codec, monkeypatch):
    """Windowed and whole results agree up to the rounding of float32."""
    picture = sdcodec.codec.read_picture(photograph(416, 352))
    whole_latents = codec._latents([picture])
    data = codec.encode(picture.rgb, quality=60).data
    whole = np.asarray(codec.decode(data)).astype(int)
    monkeypatch.setattr(windowed, "WINDOW_PIXELS", 128)
    assert (codec._latents([picture]) - whole_latents).abs().max() < 1e-5
    parts = np.asarray(codec.decode(data)).astype(int)
    assert np.abs(parts - whole).max() <= 1 and (parts != whole).mean() < 0.001


def test_batches_are_what_single_pictures_are(codec):
    pictures = [photograph(96, 64, seed) for seed in range(4)] + [photograph(64, 64)]
    batch = codec.encode_batch(pictures, quality=40)
    digests = [codec.symbols_sha256(encoded.data) for encoded in batch]
    assert digests == [codec.symbols_sha256(codec.encode(picture, quality=40).data) for picture in pictures]
    images = codec.decode_batch([encoded.data for encoded in batch])
    for encoded, image in zip(batch, images, strict=True):
        alone = np.asarray(codec.decode(encoded.data)).astype(int)
        assert np.abs(alone - np.asarray(image)).max() <= 1


def test_arrays_images_and_paths_give_the_same_file(codec, tmp_path):
    pixels = photograph(40, 50)
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path)
    files = {codec.encode(source).data for source in (pixels, Image.fromarray(pixels), path, str(path))}
    assert len(files) == 1


def test_greyscale_arrays_are_pictures(codec):
    assert codec.decode(codec.encode(photograph(40, 50)[:, :, 0]).data).size == (50, 40)


def test_alpha_comes_back_without_loss(codec):
    alpha = np.arange(64 * 48, dtype=np.uint32).reshape(64, 48).astype(np.uint8)
    pixels = np.dstack([photograph(64, 48), alpha])
    image = codec.decode(codec.encode(pixels).data)
    assert image.mode == "RGBA"
    assert np.array_equal(np.asarray(image)[:, :, 3], alpha)


def test_alpha_counts_against_the_budget(codec):
    pixels = np.dstack([photograph(64, 48), photograph(64, 48)[:, :, 0]])
    smallest = len(codec.encode(pixels, quality=0).data)
    assert len(codec.encode(pixels, target_bytes=smallest + 40).data) <= smallest + 40


def test_the_budget_is_met_and_used(codec):
    pixels = photograph(256, 256)
    low, high = (len(codec.encode(pixels, quality=q).data) for q in (0, 100))
    for target in np.linspace(low + 20, high - 20, 5).astype(int):
        encoded = codec.encode(pixels, target_bytes=int(target))
        assert len(encoded.data) <= target
        assert len(codec.encode(pixels, quality=min(100, encoded.quality + 1.5)).data) > target


def test_bits_per_pixel_are_bytes(codec):
    pixels = photograph(256, 256)
    middle = codec.encode(pixels, quality=50)
    encoded = codec.encode(pixels, target_bpp=middle.bpp)
    assert encoded.bpp <= middle.bpp and encoded.quality >= 49


def test_an_ample_budget_takes_the_best_quality(codec):
    assert codec.encode(photograph(64, 64), target_bytes=10**7).quality == 100


@pytest.mark.parametrize("effort", [0, 4])
def test_a_budget_below_quality_0_is_met_by_rounding_more_to_nothing(effort):
    base, pixels = sdcodec.Codec(store.DEFAULT, device="cpu", precision="float32"), photograph(256, 256)
    lowest = len(base.encode(pixels, quality=0).data)
    budget = round(0.8 * lowest)
    encoded = base.encode(pixels, target_bytes=budget, effort=effort)
    assert 0.7 * lowest < len(encoded.data) <= budget
    assert encoded.quality == 0
    assert base.decode(encoded.data).size == (256, 256)


def test_a_budget_that_cannot_be_met_is_an_error_with_a_figure(codec):
    with pytest.raises(sdcodec.BudgetError, match=r"30 bytes are too few.*about [0-9]+"):
        codec.encode(photograph(256, 256), target_bytes=30)


@pytest.mark.parametrize(
    "options",
    [{"quality": 101}, {"quality": -1}, {"target_bytes": 0}, {"target_bpp": 0.0}, {"quality": 5, "target_bytes": 5}],
)
def test_options_out_of_range_are_refused(codec, options):
    with pytest.raises(sdcodec.OptionError):
        codec.encode(photograph(32, 32), **options)


def test_unknown_devices_and_precisions_are_refused(random_bundle):
    with pytest.raises(sdcodec.OptionError, match="precision"):
        sdcodec.Codec(random_bundle, precision="int4")
    with pytest.raises(sdcodec.OptionError, match="device"):
        sdcodec.Codec(random_bundle, device="warp")


def test_damage_is_always_noticed(codec):
    """Every truncation and every flipped bit of a small file."""
    data = codec.encode(photograph(40, 40), quality=10).data
    for length in range(len(data)):
        with pytest.raises(sdcodec.FormatError):
            codec.decode(data[:length])
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(sdcodec.FormatError):
            codec.decode(bytes(changed))


def test_garbage_behind_a_right_checksum_does_not_crash(codec):
    container = Container.from_bytes(codec.encode(photograph(64, 64)).data)
    random = np.random.default_rng(0)
    for length in (0, 1, 10, 300):
        forged = Container(container.header, (random.bytes(length),)).to_bytes()
        with contextlib.suppress(sdcodec.FormatError):
            assert codec.decode(forged).size == (64, 64)


def test_bytes_behind_the_end_are_ignored_with_a_warning(codec):
    data = codec.encode(photograph(64, 64)).data
    with pytest.warns(sdcodec.SdcodecWarning, match="4 bytes behind the end"):
        found = codec.decode(data + b"more")
    assert found.tobytes() == codec.decode(data).tobytes()


def test_too_large_a_picture_is_refused_on_both_ways(codec):
    data = codec.encode(photograph(64, 64)).data
    with pytest.raises(sdcodec.ImageError):
        codec.encode(photograph(64, 64), max_pixels=4000)
    with pytest.raises(sdcodec.ImageError, match="64 x 64"):
        codec.decode(data, max_pixels=4000)


def test_the_limit_of_pixels_counts_the_padding_of_thin_pictures(codec):
    """A row of 2**24 pixels is decoded as 2**29."""
    thin = Container(Header(codec.fingerprint, 0, 1, 1 << 16), (b"",) * 128)
    with pytest.raises(sdcodec.ImageError, match="1 x 65536 pixels are decoded as 32 x 65536"):
        codec.decode(thin.to_bytes(), max_pixels=1 << 17)


def test_a_file_finds_its_model_under_any_name(random_bundle, codec, tmp_path, monkeypatch):
    data = codec.encode(photograph(40, 40)).data
    shutil.copytree(random_bundle, tmp_path / "renamed")
    monkeypatch.setenv("SDCODEC_HOME", str(tmp_path))
    assert sdcodec.Codec.for_file(data).symbols_sha256(data) == codec.symbols_sha256(data)
    assert sdcodec.decode(data).size == (40, 40)


def test_a_file_of_an_unknown_model_is_refused(codec, tmp_path, monkeypatch):
    monkeypatch.setenv("SDCODEC_HOME", str(tmp_path))
    container = Container.from_bytes(codec.encode(photograph(40, 40)).data)
    header = container.header.__class__(b"none", 5, 40, 40)
    data = Container(header, container.blocks).to_bytes()
    with pytest.raises(sdcodec.BundleError, match="6e6f6e65"):
        sdcodec.Codec.for_file(data)
    with pytest.raises(sdcodec.BundleError, match="6e6f6e65"):
        codec.decode(data)


def test_a_model_whose_weights_were_changed_is_refused(random_bundle, tmp_path):
    folder = tmp_path / "changed"
    shutil.copytree(random_bundle, folder)
    weights = bytearray((folder / "prior.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "prior.safetensors").write_bytes(bytes(weights))
    with pytest.raises(sdcodec.BundleError, match="fingerprint"):
        sdcodec.Codec(folder)


@pytest.mark.parametrize("content", ["", "{}", '{"layout": 99}', "[1]"])
def test_a_broken_manifest_is_refused(random_bundle, tmp_path, content):
    folder = tmp_path / "broken"
    shutil.copytree(random_bundle, folder)
    (folder / store.MANIFEST).write_text(content)
    with pytest.raises(sdcodec.BundleError, match=r"bundle\.json"):
        sdcodec.Codec(folder)


def test_missing_weights_are_named(random_bundle, tmp_path):
    folder = tmp_path / "hollow"
    shutil.copytree(random_bundle, folder)
    (folder / "autoencoder.safetensors").unlink()
    with pytest.raises(sdcodec.BundleError, match=r"autoencoder\.safetensors"):
        sdcodec.Codec(folder)


def test_an_unknown_name_lists_what_is_known():
    with pytest.raises(sdcodec.BundleError, match="unknown model 'nonesuch'"):
        sdcodec.Codec("nonesuch")


def test_bfloat16_changes_pixels_a_little_and_symbols_not_at_all(random_bundle, codec):
    data = codec.encode(photograph(96, 96)).data
    half = sdcodec.Codec(random_bundle, device="cpu", precision="bfloat16")
    assert half.symbols_sha256(data) == codec.symbols_sha256(data)
    difference = np.asarray(half.decode(data)).astype(int) - np.asarray(codec.decode(data))
    assert np.abs(difference).mean() < 1.5


def test_metadata_travels_when_asked_for(codec):
    image = Image.fromarray(photograph(40, 40))
    exif = Image.Exif()
    exif[0x010E] = "a test"
    image.info["exif"] = exif.tobytes()
    kept = codec.decode(codec.encode(image, metadata=frozenset({"exif"})).data)
    assert kept.getexif()[0x010E] == "a test"
    assert "exif" not in codec.decode(codec.encode(image).data).info


def test_of_two_models_with_one_prior_the_order_of_decoding_decides_nothing(tmp_path):
    """Files name their prior; earlier decoding with another model has no influence."""
    shipped = store.find(store.DEFAULT)
    twin = tmp_path / "twin"
    shutil.copytree(shipped.folder, twin)
    weights = load_file(twin / shipped.autoencoder_file)
    weights["decoder.exit.bias"] += 0.2
    save_file(weights, twin / shipped.autoencoder_file)
    data = sdcodec.encode(photograph(40, 56), quality=30)
    own, other = sdcodec.decode(data), sdcodec.decode(data, model=twin)
    assert np.asarray(other).mean() > np.asarray(own).mean() + 10
    assert sdcodec.decode(data) == own and sdcodec.decode(data, model=twin) == other


def test_what_a_reader_would_refuse_is_not_written(codec, monkeypatch):
    pixels = photograph(64, 64)
    size = len(codec.encode(pixels, quality=90).data)
    monkeypatch.setattr(container, "MOST_BYTES_PER_PIXEL", size / 2 / 64**2)
    with pytest.raises(
        sdcodec.OptionError, match="more bytes at this quality than a file may have; choose a lower quality"
    ):
        codec.encode(pixels, quality=90)
    assert codec.encode(pixels, quality=0).data
