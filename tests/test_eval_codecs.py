"""Tests of the harness's codecs: quality search, options, downscaling, plugins."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import numpy as np
import pytest

from conftest import photograph
from sdcodec.bundles import store
from sdcodec.errors import OptionError
from sdcodec.measures import psnr
from sdcodec_eval.codecs.protocol import RateControlled, WithCeiling
from sdcodec_eval.codecs.registry import CLASSIC, CodecSpec, build, parse
from sdcodec_eval.rates import QualitySearch

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"


class Stored:
    """Test codec: 4 bits of each sample, and 100 bytes per level of quality, 1 to 4."""

    name, extension, qualities = "stored", "raw", (1, 2, 3, 4)

    def __init__(self, shift: int = 0) -> None:
        self.settings = {"shift": shift}

    def encode(self, pixels, quality):
        return bytes(pixels.shape[:2]) + (pixels >> 4 << 4).tobytes() + bytes(100 * round(quality))

    def decode(self, data):
        height, width = data[:2]
        return np.frombuffer(data, np.uint8, 3 * height * width, 2).reshape(height, width, 3)


@pytest.mark.parametrize("name", CLASSIC)
def test_the_largest_quality_within_a_limit(name):
    codec, pixels = build(parse(name)), photograph(96, 96)
    sizes = [len(codec.encode(pixels, quality)) for quality in range(31)]
    search = QualitySearch(codec, pixels)
    for limit in (sizes[5], sizes[12] + 3, sizes[20]):
        found = search.largest_within(limit)
        assert len(found.data) <= limit
        assert found.quality == max(quality for quality, size in enumerate(sizes) if size <= limit)
    assert codec.decode(found.data).shape == (96, 96, 3)


def test_a_limit_below_the_lowest_quality_is_not_met():
    search = QualitySearch(build(parse("jpeg")), photograph(96, 96))
    assert search.largest_within(100) is None
    assert search.lowest().quality == 0 and len(search.lowest().data) > 100


def test_limits_share_their_trials():
    codec = build(parse("jpeg"))
    trials = []
    encode = codec.encode
    codec.encode = lambda pixels, quality: trials.append(quality) or encode(pixels, quality)
    search = QualitySearch(codec, photograph(96, 96))
    for limit in (1500, 1500, 2000, 2500):
        search.largest_within(limit)
    assert len(trials) == len(set(trials))


def test_options_reach_the_encoder():
    pixels = photograph(96, 96)
    plain, full = build(parse("jpeg")), build(parse("jpeg444=jpeg,subsampling=4:4:4"))
    assert full.settings["subsampling"] == "4:4:4"
    assert len(full.encode(pixels, 80)) > len(plain.encode(pixels, 80))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("jpg", "unknown codec 'jpg'; choose from avif, jpeg, jxl"),
        ("a=jpeg,speed=3", "JPEG has no option speed; choose from optimize"),
        ("a=no_such_module:Codec", "no_such_module cannot be imported"),
        ("a=sdcodec_eval.plan:Codec", "sdcodec_eval.plan has no Codec"),
        ("a=sdcodec_eval.plan:Point,budget=1,quality=2", "is not a codec, it lacks name, extension, settings"),
        ("a=test_eval_codecs:Stored,speed=3", "refuses these options (Stored.__init__() got an unexpected"),
        ("a=sdcodec,speed=3", "sdcodec has no option speed; choose from denoise, device"),
        ("a=jpeg,downscale=0", "downscale=0 is not a whole number"),
        ("a=jpeg,fast", "'a=jpeg,fast': 'fast' is not of the form option=value"),
        ("a/b=jpeg", "'a/b' is not a valid label"),
    ],
)
def test_an_invalid_codec_is_refused(text, message):
    with pytest.raises(OptionError) as caught:
        build(parse(text))
    assert message in str(caught.value)


def test_a_class_is_a_codec_with_options():
    codec = build(parse("mine=test_eval_codecs:Stored,shift=2"))
    assert codec.settings == {"shift": 2}
    pixels = photograph(20, 30)
    assert QualitySearch(codec, pixels).largest_within(2 + 3 * 600 + 250).quality == 2


def test_an_installed_package_adds_codecs_by_entry_point(monkeypatch):
    entry = importlib.metadata.EntryPoint("stored", "test_eval_codecs:Stored", "sdcodec_eval.codecs")
    monkeypatch.setattr(
        importlib.metadata,
        "entry_points",
        lambda group, name=None: [entry] if group == "sdcodec_eval.codecs" and name in (None, "stored") else [],
    )
    assert build(parse("stored")).name == "stored"
    with pytest.raises(OptionError, match="sdcodec, stored, webp"):
        build(parse("restored"))


def test_a_downscaled_codec_makes_smaller_files_of_the_same_picture():
    pixels = photograph(97, 66)
    plain, half = build(parse("jpeg")), build(CodecSpec("half", "jpeg", {"downscale": 2}))
    data = half.encode(pixels, 60)
    decoded = half.decode(data)
    assert len(data) < len(plain.encode(pixels, 60))
    assert decoded.shape == (98, 66, 3)  # padded to even sides; the harness crops
    assert psnr(pixels, decoded[:97]) > 24
    assert half.settings["downscale"] == 2


def test_sdcodec_meets_budgets_itself_and_has_a_ceiling(random_bundle):
    codec = build(CodecSpec("ours", "sdcodec", {"model": str(random_bundle), "device": "cpu"}))
    assert isinstance(codec, RateControlled) and isinstance(codec, WithCeiling)
    pixels = photograph(64, 64)
    data, quality = codec.encode_within(pixels, 4000)
    assert len(data) <= 4000 and quality in codec.qualities
    assert codec.encode_within(pixels, 20) is None
    assert codec.decode(codec.encode(pixels, 30)).shape == (64, 64, 3)
    assert codec.round_trip(pixels).shape == (64, 64, 3)
    assert codec.settings["fingerprint"] == codec.codec.fingerprint.hex()


def test_files_of_the_highest_quality_approach_the_round_trip():
    from sdcodec import Codec

    codec, pixels = Codec(store.DEFAULT, device="cpu", precision="float32"), photograph(64, 64)
    highest = np.asarray(codec.decode(codec.encode(pixels, quality=100).data))
    ceiling = np.asarray(codec.round_trip(pixels))
    assert psnr(highest, ceiling) > psnr(pixels, ceiling)
    assert psnr(highest, ceiling) > 35


def test_the_documented_example_of_a_compressai_model(monkeypatch):
    pytest.importorskip("compressai")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    codec = build(parse("b=compressai_codec:CompressAI,model=bmshj2018-factorized,pretrained=false"))
    pixels = photograph(70, 90)
    decoded = codec.decode(codec.encode(pixels, 1))
    assert decoded.dtype == np.uint8 and decoded.shape[0] >= 70 and decoded.shape[1] >= 90
