"""Targets of quality: the smallest file that reaches a value of a metric."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import sdcodec
from sdcodec import Codec, OptionError, TargetError, options
from sdcodec.measures import lpips, psnr
from sdcodec.pixels import read_picture
from sdcodec.ratecontrol import lowest_reaching
from sdcodec_cli.main import cli

with Image.open(Path(__file__).parents[1] / "images" / "raccoon.png") as photograph:
    PICTURE = np.asarray(photograph.convert("RGB").crop((180, 150, 300, 246)))  # 120 x 96


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec(device="cpu", precision="float32")


def measured(codec: Codec, data: bytes, name: str) -> float:
    decoded = np.asarray(codec.decode(data).convert("RGB"))
    return {"psnr": psnr, "lpips": lpips}[name](PICTURE, decoded)


@pytest.mark.parametrize(("name", "value"), [("psnr", 31.0), ("lpips", 0.1)])
def test_the_lowest_quality_that_reaches_a_target_is_found(codec: Codec, name: str, value: float) -> None:
    encoded = codec.encode(PICTURE, **{f"target_{name}": value})  # type: ignore[arg-type]
    below = codec.encode(PICTURE, quality=encoded.quality - 0.5)
    assert codec.encode(PICTURE, quality=encoded.quality).data == encoded.data
    signs = [
        (measured(codec, data, name) - value) * (1 if name == "psnr" else -1) for data in (encoded.data, below.data)
    ]
    assert signs[0] >= 0 > signs[1]


@pytest.mark.parametrize("effort", [2, 4])
def test_targets_hold_with_effort(codec: Codec, effort: int) -> None:
    encoded = codec.encode(PICTURE, target_lpips=0.05, effort=effort)
    assert measured(codec, encoded.data, "lpips") <= 0.05
    assert encoded.data == codec.encode(PICTURE, quality=encoded.quality, effort=effort).data
    assert encoded.data != codec.encode(PICTURE, target_lpips=0.05).data


def test_a_target_below_quality_0_gives_quality_0(codec: Codec) -> None:
    assert codec.encode(PICTURE, target_psnr=5).quality == 0


def test_a_target_out_of_reach_is_told_with_both_numbers(codec: Codec) -> None:
    with pytest.raises(TargetError, match=r"PSNR 70 dB is out of reach: it is [345]\d\.\d+ dB at quality 100") as found:
        codec.encode(PICTURE, target_psnr=70)
    best = measured(codec, codec.encode(PICTURE, quality=100).data, "psnr")
    assert found.value.target == 70 and found.value.best == pytest.approx(best, abs=1e-9)
    with pytest.raises(TargetError, match="give a higher one"):
        codec.encode(PICTURE, target_lpips=1e-7)


def test_transparent_pictures_are_measured_over_white(codec: Codec) -> None:
    alpha = np.zeros((96, 120, 1), np.uint8)
    alpha[:, 60:] = 200
    image = np.concatenate([PICTURE, alpha], 2)
    data = codec.encode(image, target_psnr=36).data
    shown, decoded = read_picture(image).over_white(), np.asarray(codec.decode(data))
    assert psnr(shown, read_picture(decoded).over_white()) >= 36
    assert len(data) < len(codec.encode(PICTURE, target_psnr=36).data)


@pytest.mark.parametrize("pixels", [np.zeros((20, 60, 3), np.uint8)])
def test_an_image_that_is_too_small_for_the_metric_is_refused(codec: Codec, pixels: Any) -> None:
    with pytest.raises(OptionError, match="LPIPS takes images of at least 31 x 31 pixels; give a quality or a size"):
        codec.encode(pixels, target_lpips=0.1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"target_psnr": 0},
        {"target_psnr": math.nan},
        {"target_lpips": -0.1},
        {"target_lpips": "0.1"},
        {"target_ssimulacra2": math.inf},
        {"target_psnr": 30, "target_lpips": 0.1},
        {"target_psnr": 30, "quality": 50},
        {"target_psnr": 30, "target_bytes": 500},
        {"target_psnr": 30, "mode": "palette"},
    ],
)
def test_wrong_targets_are_refused_before_the_image_is_read(codec: Codec, wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        codec.encode("is not even read", **wrong)


def test_a_missing_package_is_named(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "installed", lambda module: False)
    with pytest.raises(OptionError, match=r"install sdcodec\[ssimulacra2\]"):
        codec.encode("is not even read", target_ssimulacra2=50)


def test_ssimulacra2_is_reached(codec: Codec) -> None:
    pytest.importorskip("ssimulacra2")
    low, high = (codec.encode(PICTURE, target_ssimulacra2=value).quality for value in (10, 40))
    assert 0 < low < high


@pytest.mark.parametrize("slope", [0.002, 0.1, 5.0])
@pytest.mark.parametrize("reached", [0, 1, 89, 90, 91, 200])
def test_the_search_finds_every_index(slope: float, reached: int) -> None:
    tried: list[int] = []

    def excess(index: int) -> float:
        tried.append(index)
        return slope * (index - reached)

    assert lowest_reaching(excess, 0.1, 2) == reached and reached in tried
    assert lowest_reaching(lambda index: -1.0, 0.1, 2) is None
    assert len(tried) == len(set(tried)) <= 15


@pytest.mark.parametrize(("dips", "found"), [((), 70), ((69,), 69), ((62, 66), 62), ((61, 69), 61), ((61,), 70)])
def test_the_search_looks_below_where_a_value_wavers(dips: tuple[int, ...], found: int) -> None:
    """A value above its target at 70, and at a few indices below by chance."""
    assert lowest_reaching(lambda index: 1.0 if index in dips else index - 69.5, 1.0, 8) == found


def test_the_command_takes_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(PICTURE).save("a.png")
    found = CliRunner().invoke(cli, ["encode", "a.png", "-o", "a.sdc", "--target-psnr", "31"])
    assert found.exit_code == 0, found.output
    assert Path("a.sdc").read_bytes() == sdcodec.encode("a.png", target_psnr=31)
    found = CliRunner().invoke(cli, ["encode", "a.png", "-o", "b.sdc", "--target-psnr", "70"])
    assert found.exit_code == 1 and "PSNR 70 dB is out of reach" in found.output and not Path("b.sdc").exists()
    found = CliRunner().invoke(cli, ["encode", "a.png", "-o", "b.sdc", "--target-psnr", "30", "-q", "3"])
    assert found.exit_code == 2
