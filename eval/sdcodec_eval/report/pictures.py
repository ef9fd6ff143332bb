"""The pictures that go into a report: real files where browsers read them, stored pixels elsewhere, within a size."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sdcodec_eval.metrics import psnr
from sdcodec_eval.report.results import Results, ResultsError, Row

Pixels = NDArray[np.uint8]
Decoder = Callable[[str, bytes], Pixels]
"""From a codec's label and a file's bytes to uint8 `[H, W, 3]`."""

BROWSER_KINDS = {"JPEG": "image/jpeg", "WEBP": "image/webp", "AVIF": "image/avif", "PNG": "image/png"}
WEBP_SIDE = 16383  # the longest that the format has
# 4:4:4; 43 to 44 dB from the pixels, a third of lossless WebP's bytes, on crops of Kodak; the report says what it was
AVIF_QUALITY = 93


@dataclass(frozen=True)
class Stored:
    """A picture as a browser reads it."""

    mime: str
    data: bytes
    from_pixels: bool

    @property
    def base64(self) -> str:
        return base64.b64encode(self.data).decode("ascii")

    @property
    def length(self) -> int:
        """Characters in the page."""
        return 4 * -(-len(self.data) // 3)


@dataclass
class Gallery:
    """Pictures by key (`o3`: the original of the fourth image; `r12`: the thirteenth row), and what is not shown and why."""

    pictures: dict[str, Stored] = field(default_factory=dict)
    absent: dict[int, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    lossless: bool = True
    worst_psnr: float = math.inf

    @property
    def length(self) -> int:
        return sum(picture.length for picture in self.pictures.values())


def gather(results: Results, order: Sequence[str], max_bytes: int, decode: Decoder) -> Gallery:
    """Collects the pictures of the images in `order` until they fill `max_bytes` of the page (as base64).

    Files that browsers read go in as they are. Originals and other codecs' decoded pixels are stored losslessly; when that
    does not fit, all of them as AVIF 4:4:4 at `AVIF_QUALITY`, and `worst_psnr` is the smallest PSNR between stored and real
    pixels. Images that do not fit even so are left out, from the end of the order.
    """
    gallery = Gallery()
    numbers = {name: number for number, name in enumerate(results.images)}
    rows: dict[str, list[tuple[int, Row]]] = {name: [] for name in numbers}
    for number, row in enumerate(results.rows):
        rows[row.image].append((number, row))
    originals = {name: results.folder / "files" / name / "original.png" for name in order}
    readable = [name for name in order if originals[name].is_file()]  # the rows of the others say why they are not
    for position, name in enumerate(readable):
        before = len(gallery.pictures)
        gallery.pictures[f"o{numbers[name]}"] = _stored(gallery, _read(originals[name]))
        for number, row in rows[name]:
            if row.file:
                _add(gallery, number, row, results.folder, decode)
        if gallery.length > max_bytes and gallery.lossless:
            _go_lossy(gallery)
        if gallery.length > max_bytes and position > 0:
            for key in list(gallery.pictures)[before:]:
                del gallery.pictures[key]
            gallery.left_out = readable[position:]
            break
    return gallery


def _add(gallery: Gallery, number: int, row: Row, folder: Path, decode: Decoder) -> None:
    """One row's picture, or the reason why it cannot be shown: a report is made even where a codec is missing."""
    try:
        data = (folder / row.file).read_bytes()
    except OSError as error:
        gallery.absent[number] = f"its file cannot be read ({error.strerror})"
        return
    mime = _read_by_browsers(data, row)
    if mime is not None:
        gallery.pictures[f"r{number}"] = Stored(mime, data, from_pixels=False)
        return
    try:
        pixels = decode(row.codec, data)
    except Exception as error:  # codecs are anybody's code
        gallery.absent[number] = f"its file cannot be decoded here ({error})"
        return
    gallery.pictures[f"r{number}"] = _stored(gallery, pixels[: row.height, : row.width])


def _read_by_browsers(data: bytes, row: Row) -> str | None:
    """The type of a file that a browser shows at the picture's size; smaller ones are to be scaled up by their codec."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return BROWSER_KINDS.get(image.format or "") if image.size == (row.width, row.height) else None
    except OSError:
        return None


def _stored(gallery: Gallery, pixels: Pixels) -> Stored:
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    if gallery.lossless and max(image.size) <= WEBP_SIDE:
        image.save(buffer, "WEBP", lossless=True, quality=50, method=4)
        return Stored("image/webp", buffer.getvalue(), from_pixels=True)
    image.save(buffer, "AVIF", quality=AVIF_QUALITY, subsampling="4:4:4", speed=7)
    stored = Stored("image/avif", buffer.getvalue(), from_pixels=True)
    gallery.worst_psnr = min(gallery.worst_psnr, psnr(pixels, _pixels(stored.data)))
    return stored


def _go_lossy(gallery: Gallery) -> None:
    gallery.lossless = False
    for key, picture in gallery.pictures.items():
        if picture.mime == "image/webp" and picture.from_pixels:
            gallery.pictures[key] = _stored(gallery, _pixels(picture.data))


def _read(path: Path) -> Pixels:
    try:
        return _pixels(path.read_bytes())
    except OSError as error:
        raise ResultsError(f"{path}: cannot be read ({error}); run the evaluation again") from error


def _pixels(data: bytes) -> Pixels:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))
