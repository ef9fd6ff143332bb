"""Tests of photographs in memory: scales, crops, and the packed cache."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import photograph, save_photographs
from sdcodec.errors import TrainingError
from sdcodec.training import data, photographs
from sdcodec.training.photographs import Photographs, centre_crops, load_photographs

CPU = torch.device("cpu")


def saved(folder: Path, *images: np.ndarray) -> tuple[Path, ...]:
    folder.mkdir(exist_ok=True)
    paths = tuple(folder / f"{number}.png" for number in range(len(images)))
    for path, pixels in zip(paths, images, strict=True):
        Image.fromarray(pixels).save(path)
    return paths


def coordinates(height: int, width: int, number: int) -> np.ndarray:
    """Return an image whose pixels tell their place: (row, column, number)."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0], pixels[..., 1], pixels[..., 2] = np.arange(height)[:, None], np.arange(width), number
    return pixels


def test_crops_are_windows_of_the_photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photographs, "SCALES", (1.0,))
    paths = saved(tmp_path / "in", coordinates(80, 100, 0), coordinates(64, 90, 1))
    crops = load_photographs(paths, 64, CPU, tmp_path).crops(1, 5, 40, 64)
    assert crops.shape == (40, 3, 64, 64) and crops.is_contiguous(memory_format=torch.channels_last)
    rows, columns, numbers = crops.int().unbind(1)
    assert bool((rows == rows[:, :1, :1] + torch.arange(64)[:, None]).all())
    direction = columns[:, :1, 1:2] - columns[:, :1, :1]
    assert bool((columns == columns[:, :1, :1] + direction * torch.arange(64)).all())
    assert set(direction.flatten().tolist()) == {-1, 1}  # half are mirrored
    assert set(numbers.flatten().tolist()) == {0, 1}
    assert 1 <= int(rows[numbers[:, 0, 0] == 0, 0, 0].max()) <= 16


def test_crops_depend_on_seed_and_step_only(tmp_path: Path) -> None:
    loaded = load_photographs(saved(tmp_path / "in", *(photograph(160, 180, i) for i in range(3))), 64, CPU, tmp_path)
    first = loaded.crops(3, 7, 4, 64)
    loaded.crops(3, 8, 4, 64)
    assert torch.equal(loaded.crops(3, 7, 4, 64), first)
    assert not torch.equal(loaded.crops(3, 8, 4, 64), first)
    assert not torch.equal(loaded.crops(4, 7, 4, 64), first)


def test_half_of_the_crops_are_from_smaller_versions_without_aliasing(tmp_path: Path) -> None:
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    loaded = load_photographs(saved(tmp_path / "in", stripes), 64, CPU, tmp_path)
    assert loaded.levels[:, 1].tolist() == [256, 215, 179, 143, 108] and loaded.count == 1
    contrasts = loaded.crops(1, 0, 60, 64).float().std(dim=(1, 2, 3))
    full = contrasts > 127
    assert 20 <= int(full.sum()) <= 40
    smallest = loaded.pixels[loaded.levels[4, 0] :].float()
    assert float(smallest.std()) < 20  # stripes finer than its pixels are grey


def test_photographs_weigh_the_same_with_and_without_smaller_versions(tmp_path: Path) -> None:
    paths = saved(tmp_path / "in", np.zeros((300, 300, 3), np.uint8), np.full((66, 66, 3), 255, np.uint8))
    loaded = load_photographs(paths, 64, CPU, tmp_path)
    assert np.bincount(loaded.levels[:, 3]).tolist() == [5, 1]
    light = loaded.crops(1, 0, 400, 64)[:, 0, 0, 0] > 127
    assert 160 <= int(light.sum()) <= 240


def test_a_pack_is_read_again_and_made_anew_when_a_photograph_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = saved(tmp_path / "in", photograph(96, 96, 1), photograph(96, 96, 2))
    decoded = []
    original = data.load_pixels
    monkeypatch.setattr(data, "load_pixels", lambda path: decoded.append(path) or original(path))
    first = load_photographs(paths, 64, CPU, tmp_path)
    assert len(decoded) == 2 and len(list(tmp_path.glob("*.pack"))) == 1
    again = load_photographs(paths, 64, CPU, tmp_path)
    assert len(decoded) == 2 and torch.equal(again.pixels, first.pixels) and (again.levels == first.levels).all()
    os.utime(paths[0], (1, 1))
    load_photographs(paths, 64, CPU, tmp_path)
    assert len(decoded) == 4
    shutil.copy(paths[0], tmp_path / "in" / "other.png")
    load_photographs((*paths, tmp_path / "in" / "other.png"), 64, CPU, tmp_path)
    assert len(decoded) == 7
    assert {path.suffix for path in tmp_path.iterdir() if path.is_file()} == {".pack"}


def test_unreadable_and_small_images_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    paths = saved(tmp_path / "in", photograph(96, 96, 1), photograph(50, 96, 2))
    broken = tmp_path / "in" / "broken.png"
    broken.write_bytes(b"no image")
    with caplog.at_level(logging.WARNING):
        assert load_photographs((*paths, broken), 64, CPU, tmp_path).count == 1
    assert "broken.png: left out" in caplog.text
    with pytest.raises(TrainingError, match="no photograph has sides of 256"):
        load_photographs(paths, 256, CPU, tmp_path)


def test_a_pool_of_processes_decodes_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    save_photographs(tmp_path / "in", 18, 64)
    paths = tuple(sorted((tmp_path / "in").iterdir()))
    for path, pixels in zip(paths, data.decode_images(paths, 64), strict=True):
        assert pixels is not None and (pixels == data.load_pixels(path)).all()


def test_centre_crops_are_spread_over_the_photographs(tmp_path: Path) -> None:
    paths = saved(tmp_path / "in", *(coordinates(100, 120, number) for number in range(4)))
    crops = centre_crops(paths, 2, 64)
    assert crops.shape == (2, 64, 64, 3) and crops[:, 0, 0].tolist() == [[18, 28, 0], [18, 28, 2]]
    assert centre_crops((), 2, 64).shape == (0, 64, 64, 3)


def test_the_first_and_the_last_level_can_be_drawn() -> None:
    levels = np.array([[0, 1, 1, 0], [1, 1, 1, 1]], np.int64)
    tiny = Photographs(torch.tensor([[1, 1, 1], [2, 2, 2]], dtype=torch.uint8), levels)
    assert set(tiny.crops(1, 0, 32, 1).flatten().tolist()) == {1, 2}
