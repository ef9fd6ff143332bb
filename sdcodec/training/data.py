"""Find and decode photographs, with a validation split by ranges of files."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import AvifImagePlugin, Image, ImageOps

from sdcodec.errors import TrainingError

SUFFIXES = {".avif", ".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"}
VALIDATION_EVERY = 25  # one file in 25 is kept for validation,
IMAGES_PER_PROCESS = 8  # fewer images are decoded sooner than a process starts
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


def decode_images(paths: tuple[Path, ...], smallest: int) -> Iterator[NDArray[np.uint8] | None]:
    """Yield the pixels of each image, uint8 `[H, W, 3]`, in the order of `paths`.

    A pool of processes decodes them. An image that cannot be read yields None, with a warning; so does an image with a
    side below `smallest`.
    """
    workers = min(os.cpu_count() or 1, len(paths) // IMAGES_PER_PROCESS)
    with ExitStack() as stack:
        if workers > 1:
            # A forked process starts at once; other systems than Linux do not fork safely.
            context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
            pool = stack.enter_context(context.Pool(workers, initializer=_decode_in_one_thread))
            found: Iterable[NDArray[np.uint8] | str] = pool.imap(_decoded, paths, chunksize=4)
        else:
            found = map(_decoded, paths)
        for path, pixels in zip(paths, found, strict=True):
            if isinstance(pixels, str):
                logger.warning("%s: left out: %s", path, pixels)
            yield None if isinstance(pixels, str) or min(pixels.shape[:2]) < smallest else pixels


def _decoded(path: Path) -> NDArray[np.uint8] | str:
    """Return the pixels, or the message of the error."""
    try:
        return load_pixels(path)
    except Exception as error:  # decoders raise more than OSError
        return str(error)


def _decode_in_one_thread() -> None:
    """Let AVIF's decoder use one thread, since each core has a process."""
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
