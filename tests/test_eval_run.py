"""Tests of runs: equal bytes, unreachable budgets, errors, resuming, processes."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import photograph
from sdcodec.errors import OptionError, OutputError
from sdcodec.measures import psnr
from sdcodec_eval.codecs import registry
from sdcodec_eval.codecs.registry import CodecSpec, parse
from sdcodec_eval.pictures import collect
from sdcodec_eval.plan import Plan, common_qualities
from sdcodec_eval.rows import TIMINGS
from sdcodec_eval.run import codecs_of, evaluate

REQUIRED = (
    "image,codec,settings,budget_bytes,bytes,bpp,psnr,ssim,ms_ssim,lpips_alex,encode_seconds,decode_seconds,status"
)
CLASSIC = (parse("jpeg"), parse("webp"))
PLAN = Plan(CLASSIC, budgets=(900, 1500), metrics=("psnr",))
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows has no SIGKILL; its SIGTERM cannot be handled


class Lethal:
    """Test codec that kills its process at the encoding with the number LETHAL_AT."""

    name, extension, qualities, settings = "lethal", "ppm", (1,), {}
    encoded = 0

    def encode(self, pixels, quality):
        Lethal.encoded += 1
        if Lethal.encoded == int(os.environ.get("LETHAL_AT", "0")):
            os.kill(os.getpid(), KILL)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PPM")
        return file.getvalue()

    def decode(self, data):
        return np.asarray(Image.open(io.BytesIO(data)))


class Faulty(Lethal):
    """Test codec that fails on images wider than high."""

    def encode(self, pixels, quality):
        if pixels.shape[1] > pixels.shape[0]:
            raise RuntimeError("no room\nfor it")
        return super().encode(pixels, quality)


@pytest.fixture
def pictures(tmp_path):
    return save_pictures(tmp_path / "pictures")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Run PLAN once, for tests that only read the results or copy them."""
    folder = tmp_path_factory.mktemp("finished")
    run(PLAN, save_pictures(folder / "pictures"), folder / "out", anchor="webp")
    return folder / "out"


def save_pictures(folder):
    (folder / "more").mkdir(parents=True)
    for name, (height, width) in {"a": (64, 80), "b": (80, 64), "more/c": (72, 72)}.items():
        Image.fromarray(photograph(height, width, ord(name[-1]))).save(folder / f"{name}.png")
    return folder


def run(plan, inputs, folder, **options):
    return evaluate(plan, collect([inputs], apart_from=folder), folder, **options)


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def without_times(folder: Path) -> list[dict[str, str]]:
    return [{key: value for key, value in row.items() if key not in TIMINGS} for row in table(folder)]


def test_sdcodec_sets_the_limit_of_the_others(pictures, tmp_path, random_bundle):
    ours = CodecSpec("ours", "sdcodec", {"model": str(random_bundle), "device": "cpu"})
    plan = Plan((parse("jpeg"), ours), budgets=(2000, 8000), metrics=("psnr", "lpips"))
    run(plan, pictures, tmp_path / "out")
    rows = {(row["image"], row["codec"], row["budget_bytes"]): row for row in table(tmp_path / "out")}
    assert len(rows) == 12
    for (image, codec, budget), row in rows.items():
        if codec == "jpeg":
            reference = rows[image, "ours", budget]
            assert int(reference["bytes"]) <= int(budget)
            assert row["limit_bytes"] == reference["bytes"]
            assert row["status"] == "unreachable" or int(row["bytes"]) <= int(reference["bytes"])
    assert {row["status"] for row in rows.values()} >= {"ok"}
    summary = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [codec["reference"] for codec in summary["codecs"]] == [False, True]
    assert summary["codecs"][1]["ceiling"]["psnr"] > 0 and summary["codecs"][0]["ceiling"] is None


def test_rows_describe_the_files_on_disk(finished):
    assert ",".join(table(finished)[0]).startswith(REQUIRED)
    codecs = codecs_of(finished)
    for row in table(finished):
        data = (finished / row["file"]).read_bytes()
        original = np.asarray(Image.open(finished / "files" / row["image"] / "original.png"))
        assert len(data) == int(row["bytes"]) <= int(row["budget_bytes"])
        assert float(row["bpp"]) == pytest.approx(8 * len(data) / original[..., 0].size, rel=1e-5)
        assert float(row["psnr"]) == pytest.approx(psnr(original, codecs[row["codec"]].decode(data)), abs=1e-3)
        assert row["ssim"] == row["lpips_alex"] == ""  # not requested


def test_an_unreachable_budget_has_its_status(pictures, tmp_path):
    run(Plan((parse("jpeg"),), budgets=(300, 2000), metrics=("psnr",)), pictures, tmp_path / "out")
    low, high = table(tmp_path / "out")[:2]
    assert low["status"] == "unreachable" and high["status"] == "ok"
    assert low["bytes"] == low["psnr"] == low["file"] == low["quality"] == ""
    [codec] = json.loads((tmp_path / "out" / "results.json").read_text())["codecs"]
    assert codec["points"][0]["unreachable"] == 3 and codec["points"][0]["psnr"] is None
    assert len(codec["results"]["bpp"]) == 1


def test_the_lowest_quality_can_replace_an_unreachable_one_and_is_marked(pictures, tmp_path):
    plan = Plan((parse("jpeg"),), budgets=(300, 2000), metrics=("psnr",), unreachable="lowest")
    run(plan, pictures, tmp_path / "out")
    low = table(tmp_path / "out")[0]
    assert low["status"] == "unreachable" and low["quality"] == "0" and int(low["bytes"]) > 300
    assert (tmp_path / "out" / low["file"]).stat().st_size == int(low["bytes"])


def test_qualities_instead_of_budgets(pictures, tmp_path):
    plan = Plan(CLASSIC, qualities=common_qualities(CLASSIC, ["20,80", "webp=5"]), metrics=("psnr",))
    run(plan, pictures, tmp_path / "out")
    found = [(row["codec"], row["quality"], row["budget_bytes"]) for row in table(tmp_path / "out")[:3]]
    assert found == [("jpeg", "20", ""), ("jpeg", "80", ""), ("webp", "5", "")]
    with pytest.raises(OptionError, match="jpeg has no quality 200; choose from its 101 from 0 to 100"):
        run(Plan(CLASSIC[:1], qualities={"jpeg": (200,)}), pictures, tmp_path / "other")


def test_a_crop_is_the_centre_and_too_small_an_image_is_an_error(pictures, tmp_path):
    run(Plan((parse("jpeg"),), budgets=(2000,), metrics=("psnr",), crop=70), pictures, tmp_path / "out")
    status = {row["image"]: row["status"] for row in table(tmp_path / "out")}
    assert status["c"] == "ok" and "80 x 64 pixels are less than the crop of 70 x 70" in status["a"]
    cropped = np.asarray(Image.open(tmp_path / "out" / "files" / "c" / "original.png"))
    assert (cropped == np.asarray(Image.open(pictures / "more" / "c.png"))[1:71, 1:71]).all()


def test_an_unreadable_image_is_in_the_results_and_the_others_continue(pictures, tmp_path):
    (pictures / "b.png").write_bytes(b"no image at all")
    summary = run(PLAN, pictures, tmp_path / "out")
    rows = table(tmp_path / "out")
    assert [row["status"] == "ok" for row in rows] == [True] * 4 + [False] * 4 + [True] * 4
    assert rows[4]["status"].startswith("error: ") and "\n" not in rows[4]["status"]
    assert summary.curves["jpeg"][0].complete  # unreadable images do not count


def test_a_failing_codec_is_in_the_results_and_the_others_continue(pictures, tmp_path):
    plan = Plan((parse("bad=test_eval_run:Faulty"), parse("jpeg")), qualities={"bad": (1,), "jpeg": (50,)})
    run(plan, pictures, tmp_path / "out")
    status = {(row["image"], row["codec"]): row["status"] for row in table(tmp_path / "out")}
    assert status["a", "bad"] == "error: no room for it"
    assert {status[key] for key in status if key != ("a", "bad")} == {"ok"}


def test_equal_names_get_a_number(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        Image.fromarray(photograph(32, 32)).save(tmp_path / folder / "p.png")
    assert [source.name for source in collect([tmp_path / "x", tmp_path / "y"])] == ["p", "p-2"]
    with pytest.raises(OptionError, match="contains no images"):
        collect([Path(__file__).parent / "golden"])


def test_a_killed_and_resumed_run_equals_an_uninterrupted_one(pictures, tmp_path):
    specs = ["jpeg", "lethal=test_eval_run:Lethal", "webp"]
    plan = Plan(tuple(map(parse, specs)), budgets=(900, 30_000), metrics=("psnr",))
    run(plan, pictures, tmp_path / "unbroken")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; import test_eval_run as t; "
        "t.run(t.Plan(tuple(map(t.parse, sys.argv[4:])), budgets=(900, 30_000), metrics=('psnr',)), "
        "Path(sys.argv[2]), Path(sys.argv[3]))"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(pictures), str(tmp_path / "killed"), *specs]
    done = subprocess.run(command, env={**os.environ, "LETHAL_AT": "5"}, capture_output=True)
    assert done.returncode == (-KILL if os.name == "posix" else KILL), done.stderr.decode()
    journals = sorted((tmp_path / "killed").glob("files/*/rows.jsonl"))
    finished = [line for journal in journals for line in journal.read_text().splitlines() if '"row"' in line]
    assert 0 < len(finished) < 18 and not (tmp_path / "killed" / "results.csv").exists()
    with journals[-1].open("a") as file:  # killed in the middle of a line
        file.write('{"row": {"image": "b", "cod')
    computed = []
    run(plan, pictures, tmp_path / "killed", resume=True, begun=computed.append)
    assert computed == [18 - len(finished)]
    assert without_times(tmp_path / "killed") == without_times(tmp_path / "unbroken")


def test_several_processes_give_the_same_table(pictures, tmp_path):
    (pictures / "b.png").write_bytes(b"no image at all")
    progress = []
    run(PLAN, pictures, tmp_path / "one")
    run(PLAN, pictures, tmp_path / "two", workers=2, progress=progress.append)
    assert without_times(tmp_path / "two") == without_times(tmp_path / "one")
    assert sum(progress) == 12


def test_resuming_a_finished_run_computes_nothing(finished, pictures, tmp_path):
    shutil.copytree(finished, tmp_path / "out")
    done = []
    run(PLAN, pictures, tmp_path / "out", resume=True, progress=done.append)
    assert table(tmp_path / "out") == table(finished) and not done


def test_results_are_neither_mixed_nor_overwritten(finished, pictures, tmp_path, monkeypatch):
    shutil.copytree(finished, tmp_path / "out")
    with pytest.raises(OutputError, match="--resume"):
        run(PLAN, pictures, tmp_path / "out")
    other = Plan(CLASSIC, budgets=(900,), metrics=("psnr",))
    with pytest.raises(OptionError, match=r"other options \(budgets\)"):
        run(other, pictures, tmp_path / "out", resume=True)
    monkeypatch.setitem(registry.OWN, "webp", "sdcodec_eval.codecs.classic:Jpeg")  # like a retrained model
    with pytest.raises(OptionError, match=r"other settings \(webp\)"):
        run(PLAN, pictures, tmp_path / "out", resume=True)
    Image.fromarray(photograph(64, 64, 9)).save(pictures / "a.png")
    with pytest.raises(OptionError, match=r"other images \(a\)"):
        run(PLAN, pictures, tmp_path / "out", resume=True)
    run(other, pictures, tmp_path / "out", force=True)
    assert len(table(tmp_path / "out")) == 6


def test_the_results_document_the_run(finished):
    environment = json.loads((finished / "environment.json").read_text())
    assert environment["packages"]["pillow"] and environment["options"]["budgets"] == [900, 1500]
    assert set(environment["images"]) == {"a", "b", "c"}
    results = json.loads((finished / "results.json").read_text())
    assert results["anchor"] == "webp" and [found["codec"] for found in results["bd_rate"]] == ["jpeg"]
    assert results["codecs"][0]["settings"] == {"progressive": True, "optimize": True}
    assert {path.name for path in (finished / "curves").iterdir()} == {"jpeg.json", "webp.json"}
    for plot in ("psnr.png", "curves.png"):
        assert Image.open(finished / "plots" / plot).width > 300
