"""Compare the reading of images with a second reader, libvips.

pip install pyvips-binary pyvips
python benchmarks/reading.py FOLDER [FOLDER ...]

Print one line per image that the two read differently, and the counts. libvips ignores code points, gamma, primaries
and the orientation of XMP, keeps premultiplied alpha, and gives CMYK without a profile one of its own.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdcodec.errors import SdcodecError, SdcodecWarning
from sdcodec.pixels import read_picture

SUFFIXES = frozenset(["png", "jpg", "jpeg", "tif", "tiff", "bmp", "ppm", "pgm", "pbm", "pnm", "gif", "webp", "avif"])
TOLERANCE = 3  # grey levels: roundings of 16 bits, of colour conversions and of JPEG decoders
MAX_PIXELS = 1 << 26


class Reading(NamedTuple):
    """An image, uint8 `[H, W, 4]`, or None with the reason; notes are warnings."""

    pixels: NDArray[np.uint8] | None
    notes: str


def first_reading(data: bytes) -> Reading:
    """Read an image with sdcodec."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            picture = read_picture(data, max_pixels=MAX_PIXELS)
        except SdcodecError as error:
            return Reading(None, str(error).removeprefix("image data: "))
    notes = [own.message.problem for own in caught if isinstance(own.message, SdcodecWarning)]
    alpha = np.full(picture.rgb.shape[:2], 255, np.uint8) if picture.alpha is None else picture.alpha
    return Reading(np.dstack([picture.rgb, alpha]), "; ".join(notes))


def second_reading(data: bytes) -> Reading:
    """Read an image with libvips: upright, sRGB, 8 bits.

    Its binary package for Python reads neither BMP nor PNM.
    """
    import pyvips

    try:
        image = pyvips.Image.new_from_buffer(data, "", fail_on="truncated").autorot()
        if image.width * image.height > MAX_PIXELS:
            return Reading(None, "too large")
        if image.get_typeof("icc-profile-data") and image.interpretation != "lab":
            image = image.icc_transform("srgb", intent="relative", black_point_compensation=True, depth=8)
        image = image.colourspace("srgb")
        if not image.hasalpha():
            image = image.addalpha()
        return Reading(image.cast("uchar").numpy()[:, :, :4], "")
    except pyvips.Error as error:
        return Reading(None, " ".join(str(error).split()))


def difference(first: Reading, second: Reading) -> str:
    """Return the kind of a difference, or "" if there is none."""
    if first.pixels is None or second.pixels is None:
        neither = first.pixels is None and second.pixels is None
        return "" if neither else f"read by {'libvips' if first.pixels is None else 'sdcodec'} only"
    if first.pixels.shape != second.pixels.shape:
        return f"size {first.pixels.shape[1::-1]} and {second.pixels.shape[1::-1]}"
    distance = np.abs(first.pixels.astype(np.int16) - second.pixels)
    visible = first.pixels[:, :, 3] > 0
    colour = int(distance[:, :, :3][visible].max(initial=0))
    alpha = int(distance[:, :, 3].max())
    if colour <= TOLERANCE and alpha <= 1:
        return ""
    mean = float(distance[:, :, :3][visible].mean()) if visible.any() else 0.0
    return f"colour up to {colour} levels (mean {mean:.1f}), alpha up to {alpha}"


def main(folders: Sequence[str]) -> None:
    """Compare all images of the folders."""
    counts: Counter[str] = Counter()
    paths = [path for folder in folders for path in sorted(Path(folder).rglob("*"))]
    for path in paths:
        if path.suffix[1:].lower() not in SUFFIXES or not path.is_file():
            continue
        data = path.read_bytes()
        first, second = first_reading(data), second_reading(data)
        kind = difference(first, second)
        counts["different" if kind else "neither reads it" if first.pixels is None else "equal"] += 1
        if kind:
            print(f"{path}: {kind}; {first.notes or second.notes}", flush=True)
    print(", ".join(f"{count} {kind}" for kind, count in counts.items()))


if __name__ == "__main__":
    main(sys.argv[1:])
