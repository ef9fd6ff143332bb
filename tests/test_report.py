"""Tests of the report's content; test_report_in_browser.py tests its behaviour."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdcodec import Codec
from sdcodec.bundles import store
from sdcodec_eval.report import ResultsError, write_report


@pytest.fixture
def folder(evaluated: Path, tmp_path: Path) -> Path:
    """Copy the results, so that a test may change them."""
    return Path(shutil.copytree(evaluated, tmp_path / "results", ignore=shutil.ignore_patterns("report.html")))


@pytest.fixture(scope="module")
def page(evaluated: Path) -> str:
    return write_report(evaluated).read_text(encoding="utf-8")


def grey(label: str, data: bytes) -> np.ndarray:
    """Decode to grey, for tests that ignore the images."""
    return np.full((128, 128, 3), 128, np.uint8)


def written(folder: Path) -> str:
    return write_report(folder, decode=grey).read_text(encoding="utf-8")


def data_of(page: str) -> dict:
    found = re.search(r'<script type="application/json" id="results">(.*?)</script>', page, re.DOTALL)
    return json.loads(found.group(1))


def picture(page: str, key: str) -> bytes:
    found = re.search(rf'id="picture-{key}" data-type="[a-z/]+">([^<]*)</script>', page)
    return base64.b64decode(found.group(1))


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def text_of(page: str) -> str:
    body = re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", body)))


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "results.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def change_rows(folder: Path, change) -> None:
    rows = rows_of(folder)
    for row in rows:
        change(row)
    with open(folder / "results.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def change_summary(folder: Path, change) -> None:
    path = folder / "results.json"
    summary = json.loads(path.read_text(encoding="utf-8"))
    change(summary)
    path.write_text(json.dumps(summary), encoding="utf-8")


def test_the_page_loads_nothing_from_elsewhere(page: str):
    asked_for = re.findall(r"""\b(?:src|href|action|data|poster)\s*=\s*["']?([^"'\s>]*)""", page.split("<script", 1)[0])
    assert asked_for and all(target.startswith(("#", "data:,")) for target in asked_for)
    assert "url(" not in page and "@import" not in page
    assert "default-src 'none'" in page


def test_the_headline_names_codecs_pictures_and_sizes(page: str):
    assert "sdcodec, JPEG and AVIF on 2 images, at 500, 1,000 and 2,000 bytes" in page


def test_the_means_are_those_of_the_results(page: str, evaluated: Path):
    text = text_of(page)
    summary = json.loads((evaluated / "results.json").read_text(encoding="utf-8"))
    for codec in summary["codecs"]:
        for point in codec["points"]:
            if point["lpips_alex"] is not None:
                assert f" {point['lpips_alex']:.4f} " in text
                assert f" {point['bytes']:,.0f} " in text


def test_every_row_of_the_table_is_in_the_data(page: str, evaluated: Path):
    ours, theirs = data_of(page)["rows"], rows_of(evaluated)
    assert [(row["image"], row["codec"], row["status"]) for row in ours] == [
        (row["image"], row["codec"], row["status"]) for row in theirs
    ]
    for one, other in zip(ours, theirs, strict=True):
        assert one["bytes"] == (int(other["bytes"]) if other["bytes"] else None)


def test_files_that_browsers_read_are_in_the_page_unchanged(page: str, evaluated: Path):
    read = [(row, found) for row, found in shown(page, evaluated) if row["codec"] in ("jpeg", "avif")]
    assert {row["codec"] for row, _ in read} == {"jpeg", "avif"}
    assert all(found == (evaluated / row["file"]).read_bytes() for row, found in read)


def test_the_pixels_of_other_files_are_stored_without_loss(page: str, evaluated: Path):
    row, found = next(pair for pair in shown(page, evaluated) if pair[0]["codec"] == "sdcodec")
    codec = Codec(store.DEFAULT, device="cpu", precision="float32")
    decoded = codec.decode((evaluated / row["file"]).read_bytes()).convert("RGB")
    assert (pixels(found) == np.asarray(decoded)).all()
    assert "stored losslessly" in page


def shown(page: str, folder: Path) -> list[tuple[dict[str, str], bytes]]:
    pairs = zip(rows_of(folder), data_of(page)["rows"], strict=True)
    return [(row, picture(page, entry["picture"])) for row, entry in pairs if entry["picture"]]


def test_originals_are_stored_without_loss(page: str, evaluated: Path):
    stored = [image for image in data_of(page)["images"] if image["picture"]]
    assert len(stored) == 2
    for image in stored:
        original = (evaluated / "files" / image["name"] / "original.png").read_bytes()
        assert (pixels(picture(page, image["picture"])) == pixels(original)).all()


def test_an_unreachable_size_is_reported_and_has_no_picture(page: str):
    beyond = [row for row in data_of(page)["rows"] if row["status"] == "unreachable"]
    assert {row["codec"] for row in beyond} == {"jpeg"}
    assert all(row["picture"] is None and row["limit"] <= 500 for row in beyond)
    assert "0 of 2" in text_of(page)


def test_an_unreadable_input_is_listed(page: str):
    text = text_of(page)
    assert "rows with errors" in text
    assert re.search(r"broken (sdcodec|JPEG|AVIF) error: ", text)


def test_settings_and_environment_are_shown(page: str, evaluated: Path):
    environment = json.loads((evaluated / "environment.json").read_text(encoding="utf-8"))
    text = text_of(page)
    assert environment["packages"]["pillow"] in text
    assert environment["platform"] in text
    assert "progressive=yes" in text


def test_bd_rates_are_shown_with_their_overlap_or_the_reason_for_none(folder: Path):
    common = {"anchor": "avif", "metric": "lpips_alex"}
    found = {"codec": "sdcodec", "percent": -43.21, "overlap": 0.876, "range": [0.1, 0.3], "refused": None}
    none = {"codec": "jpeg", "percent": None, "overlap": None, "range": None, "refused": "jpeg has 2 complete points"}
    change_summary(folder, lambda summary: summary.update(bd_rate=[common | found, common | none]))
    text = text_of(written(folder))
    assert "BD-rate against AVIF" in text
    assert re.search(r"sdcodec −43.2 % overlap 88 % 0.1000 to 0.3000", text)
    assert "jpeg has 2 complete points" in text


def test_published_curves_are_drawn_and_named_with_their_source(folder: Path):
    curve = {"name": "Somebody", "source": "somewhere/results.csv", "note": "", "points": [{"bpp": 0.1, "psnr": 27.5}]}
    change_summary(folder, lambda summary: summary.update(published=[curve], published_note="Not always real files."))
    page = written(folder)
    assert data_of(page)["published"][0]["points"] == [{"bpp": 0.1, "psnr": 27.5}]
    assert "somewhere/results.csv" in text_of(page) and "Not always real files." in text_of(page)


def test_a_lossless_row_has_an_infinite_psnr(folder: Path):
    change_rows(folder, lambda row: row.update(psnr="inf") if row["codec"] == "avif" else None)
    values = {row["values"]["psnr"] for row in data_of(written(folder))["rows"]}
    assert "inf" in values


def test_text_of_the_results_is_escaped(folder: Path):
    bad = "error: </script><img src=x onerror=alert(1)>"
    change_rows(folder, lambda row: row.update(status=bad) if row["status"].startswith("error") else None)
    page = written(folder)
    assert "<img src=x" not in page
    assert bad in {row["status"] for row in data_of(page)["rows"]}


def test_images_are_compressed_if_they_do_not_fit(page: str, folder: Path):
    full = sum(len(found) for found in re.findall(r'id="picture-[^>]*>([^<]*)<', page))
    smaller = write_report(folder, max_bytes=full * 3 // 4).read_text(encoding="utf-8")
    assert "AVIF 4:4:4" in smaller and "to keep the page small" in smaller
    stated = float(re.search(r"at least ([\d.]+) dB PSNR", smaller).group(1))
    original = next(image for image in data_of(smaller)["images"] if image["picture"])
    stored = pixels(picture(smaller, original["picture"])).astype(float)
    real = pixels((folder / "files" / original["name"] / "original.png").read_bytes())
    assert stated - 0.05 <= 10 * np.log10(255**2 / np.mean((stored - real) ** 2)) < 70


def test_images_that_cannot_fit_are_omitted_and_named(folder: Path):
    page = write_report(folder, max_bytes=1, decode=grey).read_text(encoding="utf-8")
    assert len([image for image in data_of(page)["images"] if image["picture"]]) == 1
    assert re.search(r"1 of 3 images are in the tables only.*(eye|ear)", text_of(page))


def test_the_worst_image_is_kept_if_others_must_be_omitted(folder: Path):
    worst = max(
        (
            row
            for row in rows_of(folder)
            if row["codec"] == "sdcodec" and row["budget_bytes"] == "1000" and row["bytes"]
        ),
        key=lambda row: float(row["lpips_alex"]),
    )["image"]
    page = write_report(folder, max_bytes=1, decode=grey).read_text(encoding="utf-8")
    assert [image["name"] for image in data_of(page)["images"] if image["picture"]] == [worst]


def test_a_missing_codec_leaves_a_reason(folder: Path):
    def decode(label: str, data: bytes) -> np.ndarray:
        raise ImportError("no such codec")

    page = write_report(folder, decode=decode).read_text(encoding="utf-8")
    rows = [row for row in data_of(page)["rows"] if row["codec"] == "sdcodec" and row["bytes"]]
    assert rows and all("cannot be decoded here (no such codec)" in row["absent"] for row in rows)


def test_a_file_at_a_smaller_size_is_decoded_by_its_codec(folder: Path):
    row = next(row for row in rows_of(folder) if row["codec"] == "jpeg" and row["file"])
    Image.new("RGB", (32, 32)).save(folder / row["file"])
    up = np.full((128, 128, 3), 77, np.uint8)
    asked = []

    def decode(label: str, data: bytes) -> np.ndarray:
        asked.append(label)
        return up

    page = write_report(folder, decode=decode).read_text(encoding="utf-8")
    assert "jpeg" in asked
    found = next(entry for entry in shown(page, folder) if entry[0]["file"] == row["file"])
    assert (pixels(found[1]) == up).all()


@pytest.mark.parametrize("name", ["results.csv", "results.json", "environment.json"])
def test_an_incomplete_folder_is_refused(folder: Path, name: str):
    (folder / name).unlink()
    with pytest.raises(ResultsError, match=rf"{name}: cannot be read .*sdcodec eval"):
        write_report(folder)
    assert not (folder / "report.html").exists()


def test_results_of_a_later_version_are_refused(folder: Path):
    change_summary(folder, lambda summary: summary.update(schema=2))
    with pytest.raises(ResultsError, match="schema 2"):
        write_report(folder)


def test_damaged_results_are_refused(folder: Path):
    change_summary(folder, lambda summary: summary["codecs"][0].pop("points"))
    with pytest.raises(ResultsError, match="damaged"):
        write_report(folder)
