"""Tests of curves: means with missing rows, BD-rates, published figures, plans."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest

from sdcodec.errors import OptionError
from sdcodec_eval import published
from sdcodec_eval.codecs.registry import build, parse
from sdcodec_eval.curves import CurvePoint, bd_rate, curve
from sdcodec_eval.measuring import METRICS
from sdcodec_eval.plan import Plan, Point, common_qualities
from sdcodec_eval.rows import Record, Row
from sdcodec_eval.summary import compressai_json, summarise, to_json

PSNR, LPIPS = METRICS["psnr"], METRICS["lpips"]


def points(rates, values, column="psnr", complete=True):
    return [
        CurvePoint(Point(None, rate), 1, 0, 0, complete, bpp=rate, values={column: value})
        for rate, value in zip(rates, values, strict=True)
    ]


def row(image, point, size, psnr, status="ok"):
    budget = int(point)
    return Row(image, "jpeg", "", budget, 50, status, 64, 64, budget, size, "f", {"psnr": psnr}, 0.5, 0.25, str(budget))


def test_half_the_rate_everywhere_is_minus_fifty_percent():
    values = [30.0, 33.0, 35.5, 37.0]
    found = bd_rate("a", points([0.1, 0.2, 0.4, 0.8], values), "b", points([0.2, 0.4, 0.8, 1.6], values), PSNR)
    assert found.percent == pytest.approx(-50) and found.overlap == 1 and found.range == (30, 37)


def test_bd_rate_of_a_metric_where_lower_is_better():
    ours = points([0.1, 0.2, 0.4], [0.4, 0.2, 0.1], "lpips_alex")
    theirs = points([0.2, 0.4, 0.8], [0.4, 0.2, 0.1], "lpips_alex")
    found = bd_rate("a", ours, "b", theirs, LPIPS)
    assert found.percent == pytest.approx(-50) and found.range == (0.1, 0.4)


def test_the_overlap_is_stated():
    found = bd_rate("a", points([0.1, 0.2, 0.4], [30, 32, 34]), "b", points([0.2, 0.4, 0.8], [32, 34, 36]), PSNR)
    assert found.overlap == pytest.approx(1 / 3) and found.range == (32, 34)


@pytest.mark.parametrize(
    ("ours", "reason"),
    [
        (points([0.1, 0.2, 0.4], [20, 22, 24]), "overlap too little in PSNR: 0%"),
        (points([0.1, 0.2, 0.4], [20, 22, 30.2]), "overlap too little in PSNR: 1%"),
        (points([0.1, 0.2], [30, 33]), "a has 2 complete points; at least 3 are needed"),
        (points([0.1, 0.2, 0.4], [30, 33, 34], complete=False), "a has 0 complete points"),
        (points([0.1, 0.2, 0.4], [30, 33, 32]), "PSNR of a does not improve with every increase"),
    ],
)
def test_no_bd_rate_where_curves_cannot_be_compared(ours, reason):
    found = bd_rate("a", ours, "b", points([0.1, 0.2, 0.4], [30, 33, 36]), PSNR)
    assert found.percent is None and reason in found.refused


def test_a_point_that_a_picture_did_not_reach_is_not_complete():
    reached = [row("x", 1000, 990, 30.0), row("y", 1000, 980, 34.0), row("x", 500, 500, 28.0)]
    missing = Row("y", "jpeg", "", 500, None, "unreachable", 64, 64, 500, point="500")
    low, high = curve([*reached, missing], [Point(500, None), Point(1000, None)], [PSNR])
    assert (low.pictures, low.unreachable, low.complete, low.values["psnr"]) == (1, 1, False, 28.0)
    assert (high.pictures, high.complete, high.values["psnr"]) == (2, True, 32.0)
    assert high.bytes == 985 and high.bpp == pytest.approx(8 * 985 / 4096)


def records(digests):
    found = {}
    for name, digest in digests.items():
        rows = [row(name, point, point - 10, 20.0 + point / 1000) for point in (1000, 2000, 4000)]
        found[name] = Record({r.key: r for r in rows}, {}, digest)
    return found


def summary_of(digests, crop=None):
    plan = Plan((parse("jpeg"),), budgets=(1000, 2000, 4000), crop=crop, metrics=("psnr",))
    return summarise(plan, {"jpeg": build(parse("jpeg"))}, None, records(digests))


def test_published_curves_appear_on_whole_kodak_only():
    kodak = json.loads((files("sdcodec_eval") / "data" / "kodak-pixels.json").read_text())["pictures"]
    assert len(kodak) == 24
    whole = to_json(summary_of(kodak))
    assert [curve["name"] for curve in whole["published"]][:3] == ["No-GAN", "MS-ILLM", "StableCodec"]
    assert whole["pictures"]["dataset"] == "Kodak" and whole["pictures"]["whole"]
    cropped, fewer = to_json(summary_of(kodak, crop=512)), to_json(summary_of(dict(list(kodak.items())[:23])))
    other = to_json(summary_of({**kodak, "kodim24": "0" * 64}))
    assert not cropped["published"] and not fewer["published"] and not other["published"]
    assert cropped["pictures"]["dataset"] == "Kodak" and other["pictures"]["dataset"] is None


def test_published_figures_have_sources_and_fall_in_their_ranges():
    for found in published.published_curves():
        assert "/" in found.source and found.points
        for point in found.points:
            assert 0 < point["bpp"] < 1 and 20 < point["psnr"] < 40 and point.keys() <= {"bpp", *columns()}


def columns():
    return {metric.column for metric in METRICS.values()}


def test_compressais_schema():
    found = compressai_json(summary_of({"a": "1", "b": "2"}), "jpeg")
    assert found["name"] == "jpeg" and "progressive=true" in found["description"]
    assert found["results"]["psnr-rgb"] == [21.0, 22.0, 24.0]
    assert found["results"]["bpp"] == [pytest.approx(8 * (b - 10) / 4096) for b in (1000, 2000, 4000)]
    assert found["results"]["encoding_time"] == [0.5] * 3 and found["results"]["decoding_time"] == [0.25] * 3


def test_qualities_for_all_codecs_and_for_one():
    specs = [parse("jpeg"), parse("webp")]
    assert common_qualities(specs, ["10,50", "webp=0,5", "webp=7"]) == {"jpeg": (10, 50), "webp": (0, 5, 7)}
    with pytest.raises(OptionError, match="no quality for webp"):
        common_qualities(specs, ["jpeg=10"])
    with pytest.raises(OptionError, match="no codec of this run has the label 'avif'"):
        common_qualities(specs, ["avif=10"])


def test_a_plan_comes_back_from_json():
    plan = Plan((parse("a=jpeg,subsampling=4:4:4"),), qualities={"a": (10.0, 50.0)}, crop=64, metrics=("psnr",))
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codecs": ()}, "no codec"),
        ({"codecs": (parse("jpeg"), parse("jpeg"))}, "two codecs have the label jpeg"),
        ({"qualities": {"jpeg": (1,)}}, "either byte budgets or qualities"),
        ({"budgets": (0,)}, "give at least 1"),
    ],
)
def test_an_invalid_plan_is_refused(changes, message):
    with pytest.raises(OptionError, match=message):
        Plan(**{"codecs": (parse("jpeg"),), "budgets": (1000,), **changes})
