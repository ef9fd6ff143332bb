"""Mutated files with right checks, through the readers: typed errors or pictures."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import sdcodec
from sdcodec.bundles import store
from sdcodec.container import Container
from sdcodec.errors import ImageError, SdcodecError, TrainingError
from sdcodec.pixels import to_image_file
from sdcodec.training.config import load_config

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import fuzz
import mutations

DAMAGED = Path(__file__).parent / "damaged"
MESSAGES = json.loads((DAMAGED / "messages.json").read_text(encoding="utf-8"))
SEEDS = st.integers(0, (1 << 64) - 1)
ALWAYS_THE_SAME = settings(
    derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def sources() -> list[bytes]:
    return fuzz.golden_files()


@pytest.fixture(scope="module")
def codec() -> sdcodec.Codec:
    return sdcodec.Codec("base", device="cpu")


@pytest.mark.parametrize("name", MESSAGES)
def test_damaged_files_are_refused_in_these_words(codec, name):
    with pytest.raises(SdcodecError) as caught:
        codec.decode((DAMAGED / name).read_bytes())
    assert f"{type(caught.value).__name__}: {caught.value}" == MESSAGES[name]


def test_every_damaged_file_has_its_message():
    assert sorted(path.name for path in DAMAGED.glob("*.sdc")) == sorted(MESSAGES)


@given(seed=SEEDS)
@settings(ALWAYS_THE_SAME, max_examples=2000)
def test_any_file_is_read_or_refused(sources, seed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fuzz.parse(mutations.mutated(seed, sources))


def test_the_attack_reaches_the_parsers(sources):
    """Most pass their checksums; about half are refused for other reasons."""
    complaints = []
    for seed in range(300):
        try:
            Container.from_bytes(mutations.mutated(seed, sources))
        except SdcodecError as error:
            complaints.append(str(error))
    assert 50 < len(complaints) < 250
    assert sum("checksum" in text for text in complaints) < 0.2 * len(complaints)
    assert len({text.split(":")[1][:20] for text in complaints if ":" in text}) > 6


@given(seed=SEEDS)
@settings(ALWAYS_THE_SAME, max_examples=25)
def test_any_small_file_gives_a_picture_or_a_typed_error(sources, seed):
    codec = sdcodec.Codec("base", device="cpu")
    small = [data for data in sources if fuzz._pixels(data) <= 10_000]
    data = mutations.mutated(seed, small)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sdcodec.SdcodecWarning)
        try:
            assert codec.decode(data, max_pixels=fuzz.SMALL).width > 0
        except SdcodecError as error:
            assert "\n" not in str(error)


@given(seed=SEEDS)
@settings(ALWAYS_THE_SAME, max_examples=200)
def test_any_recipe_is_read_or_refused(tmp_path, seed):
    path = tmp_path / "recipe.toml"
    recipe = (Path(__file__).parents[1] / "recipes" / "base.toml").read_bytes()
    path.write_bytes(mutations.changed_text(seed, recipe))
    try:
        load_config(path)
    except SdcodecError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize("text", [b"\xff", b"a = " + b"[" * 100_000], ids=["no UTF-8", "deep"])
def test_recipes_that_broke_the_reader_are_refused(tmp_path, text):
    (tmp_path / "recipe.toml").write_bytes(text)
    with pytest.raises(TrainingError, match="not valid TOML"):
        load_config(tmp_path / "recipe.toml")


@given(seed=SEEDS)
@settings(ALWAYS_THE_SAME, max_examples=200)
def test_any_manifest_is_read_or_refused(tmp_path, seed):
    manifest = (store.SHIPPED / store.DEFAULT / store.MANIFEST).read_bytes()
    (tmp_path / store.MANIFEST).write_bytes(mutations.changed_text(seed, manifest))
    try:
        store.read_manifest(tmp_path)
    except SdcodecError as error:
        assert str(tmp_path) in str(error)


@pytest.mark.parametrize("exif", [b"\0", b"<?xpacket", b"MM"], ids=["no TIFF", "text", "short"])
def test_damaged_exif_never_breaks_a_writer(exif):
    """Pillow copies EXIF as bytes into most formats, but parses it for TIFF."""
    image = Image.new("RGB", (4, 4))
    image.info["exif"] = b"Exif\0\0" + exif
    assert to_image_file(image, "png")
    with pytest.raises(ImageError, match=r"cannot be written as tiff \(.*\); choose png"):
        to_image_file(image, "tiff")
