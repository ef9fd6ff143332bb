"""Photographs for training: folders of images, a validation split, crops.

Crops depend on the seed and the step only.
"""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from sdcodec.errors import TrainingError

SUFFIXES = {".avif", ".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"}
SCALES = (0.6, 1.0)  # of half of the crops: it hides the compression of the photographs' own files
VALIDATION_EVERY = 25  # one file in 25 is kept for validation,
VALIDATION_RANGE = 5  # in ranges of neighbours, since neighbouring files may be crops of one photograph

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """Files for training and for validation; no file is in both."""

    training: tuple[Path, ...]
    validation: tuple[Path, ...]


def find_images(folders: list[Path]) -> Split:
    """Find all images below the folders, in the order of their names.

    Each folder with more than `VALIDATION_EVERY` images gives ranges of `VALIDATION_RANGE` neighbours to validation,
    from its first on: of long folders one file in `VALIDATION_EVERY`. Raises TrainingError for a missing folder, or
    no images.
    """
    training: list[Path] = []
    validation: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise TrainingError(
                f"{folder}: no such folder; name folders of photographs under `data` in the configuration"
            )
        by_parent: dict[Path, list[Path]] = {}
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in SUFFIXES:
                by_parent.setdefault(path.parent, []).append(path)
        for paths in by_parent.values():
            period = VALIDATION_EVERY * VALIDATION_RANGE
            for index, path in enumerate(paths):
                (
                    validation if index % period < VALIDATION_RANGE and len(paths) > VALIDATION_EVERY else training
                ).append(path)
    if not training:
        raise TrainingError(f"{', '.join(map(str, folders))}: no images found ({', '.join(sorted(SUFFIXES))} are read)")
    return Split(tuple(training), tuple(validation))


def load_pixels(path: Path) -> NDArray[np.uint8]:
    """Load one image as uint8 `[H, W, 3]`, without alpha and colour management.

    Raises Pillow's errors, which are not only OSErrors.
    """
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def load_all(paths: tuple[Path, ...], smallest: int) -> list[NDArray[np.uint8]]:
    """Load every image without a side below `smallest`.

    An unreadable image is left out with a warning.
    """

    def load(path: Path) -> NDArray[np.uint8] | None:
        try:
            pixels = load_pixels(path)
        except Exception as error:  # decoders raise much besides OSError
            logger.warning("%s: left out: %s", path, error)
            return None
        return pixels if min(pixels.shape[:2]) >= smallest else None

    with ThreadPoolExecutor(max_workers=max(4, os.cpu_count() or 1)) as pool:
        return [pixels for pixels in pool.map(load, paths) if pixels is not None]


def crop_batch(
    images: list[NDArray[np.uint8]],
    seed: int,
    step: int,
    batch: int,
    size: int,
    scales: tuple[float, float] = SCALES,
) -> Tensor:
    """Return random crops `[batch, 3, size, size]`, uint8.

    Half of them are from images scaled down by `scales`, half are mirrored. The same seed and step give the same
    crops, so that a resumed run equals an unbroken one.
    """
    random = np.random.default_rng((seed, step))
    crops = []
    for _ in range(batch):
        pixels = images[random.integers(len(images))]
        height, width = pixels.shape[:2]
        scale = random.uniform(*scales) if random.random() < 0.5 else 1.0
        extent = min(round(size / scale), height, width)
        top, left = random.integers(height - extent + 1), random.integers(width - extent + 1)
        crop = pixels[top : top + extent, left : left + extent]
        if extent != size:
            crop = np.asarray(Image.fromarray(crop).resize((size, size), Image.Resampling.BICUBIC))
        crops.append(crop[:, ::-1] if random.random() < 0.5 else crop)
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
