"""Pictures of a run: files, names and pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sdcodec.errors import ImageError, OptionError
from sdcodec.pixels import read_picture
from sdcodec_eval.codecs.protocol import Pixels

EXTENSIONS = frozenset(["png", "jpg", "jpeg", "webp", "avif", "jxl", "tif", "tiff", "bmp", "ppm", "heic", "heif"])


@dataclass(frozen=True)
class Source:
    """File of an image, and its unique name in the results, also a folder name."""

    name: str
    path: Path


def collect(inputs: Sequence[Path], *, apart_from: Path | None = None) -> list[Source]:
    """Collect files and the images of folders, with subfolders, sorted by path.

    The second file with the same stem is named `stem-2`. apart_from: folder to skip, the one of the results.
    Raises OptionError if an input does not exist or a folder has no images.
    """
    paths: list[Path] = []
    for given in inputs:
        if given.is_dir():
            found = list(_below(given, apart_from))
            if not found:
                raise OptionError(f"{given}: contains no images; give a folder with image files")
            paths += found
        elif given.is_file():
            paths.append(given)
        elif given.exists():
            raise OptionError(f"{given}: is a device or a pipe; give an image file or a folder")
        else:
            raise OptionError(f"{given}: does not exist; give an image file or a folder")
    sources: dict[str, Source] = {}
    for path in paths:
        name, number = path.stem, 1
        while name.casefold() in sources:
            number += 1
            name = f"{path.stem}-{number}"
        sources[name.casefold()] = Source(name, path)
    return list(sources.values())


def _below(folder: Path, apart_from: Path | None) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        left_out = apart_from is not None and path.resolve().is_relative_to(apart_from.resolve())
        if path.suffix[1:].lower() in EXTENSIONS and not hidden and not left_out and path.is_file():
            yield path


def read(source: Source) -> Pixels:
    """Read an image as uint8 `[H, W, 3]`, sRGB, upright, blended over white.

    Raises ImageError and OSError.
    """
    return read_picture(source.path).over_white()


def centre_crop(pixels: Pixels, side: int | None) -> Pixels:
    """Crop the centre, `[side, side, 3]`; None keeps the whole image.

    Odd margins are rounded up and left. Raises ImageError if the image is smaller than the crop.
    """
    if side is None:
        return pixels
    height, width = pixels.shape[:2]
    if min(height, width) < side:
        raise ImageError(f"{width} x {height} pixels are less than the crop of {side} x {side}; choose a smaller crop")
    top, left = (height - side) // 2, (width - side) // 2
    return np.ascontiguousarray(pixels[top : top + side, left : left + side])


def pixel_digest(pixels: Pixels) -> str:
    """Return the SHA-256 of the size and the samples, independent of the file format."""
    height, width = pixels.shape[:2]
    return hashlib.sha256(f"{width}x{height}\n".encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()
