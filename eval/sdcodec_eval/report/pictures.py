"""The pictures that go into a report: real files where browsers read them, stored pixels elsewhere, within a size."""

from __future__ import annotations

import base64
import io
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
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
QUALITIES = (None, 95, 90, 85)
"""How pixels are stored, best first: losslessly, or as AVIF 4:4:4 at a quality."""
WEBP_SIDE = 16383  # the longest that the format has
SAMPLE = 4  # images that the choice among QUALITIES is made by
MARGIN = 0.9  # of the room, since a sample is not everything


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
    """Pictures by key (`o3`: the original of the fourth image; `r12`: the thirteenth row), and what is not shown and why.

    quality: one of QUALITIES; worst_psnr: the smallest PSNR between stored and real pixels, in dB.
    """

    quality: int | None
    pictures: dict[str, Stored] = field(default_factory=dict)
    absent: dict[int, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    worst_psnr: float = math.inf


def gather(results: Results, order: Sequence[str], max_bytes: int, decode: Decoder) -> Gallery:
    """Collects the pictures of the images in `order` until they fill `max_bytes` of the page (as base64).

    Files that browsers read go in as they are. Originals and other codecs' decoded pixels are stored losslessly, or, where
    that would not fit by a sample of the images, at the best of QUALITIES that does. Images that do not fit even so are
    left out, from the end of the order.
    """
    shelf = _Shelf(results, decode)
    readable = [name for name in order if shelf.original(name).is_file()]  # why others are not is in their rows
    gallery = Gallery(_quality_that_fits(shelf, readable, max_bytes))
    length = 0
    for position, name in enumerate(readable):
        stored = {}
        for key, found in shelf.take(name):
            if isinstance(found, str):
                gallery.absent[int(key[1:])] = found
            else:
                stored[key] = found if isinstance(found, Stored) else _stored(found, gallery.quality)
                if stored[key].mime == "image/avif" and not isinstance(found, Stored):
                    gallery.worst_psnr = min(gallery.worst_psnr, psnr(found, _pixels(stored[key].data)))
        length += sum(picture.length for picture in stored.values())
        if length > max_bytes and position > 0:
            gallery.left_out = readable[position:]
            break
        gallery.pictures |= stored
    return gallery


class _Shelf:
    """The pictures of a results folder, read and decoded when they are taken."""

    def __init__(self, results: Results, decode: Decoder) -> None:
        self.folder, self.decode = results.folder, decode
        self.numbers = {name: number for number, name in enumerate(results.images)}
        self.rows: dict[str, list[tuple[int, Row]]] = {name: [] for name in self.numbers}
        for number, row in enumerate(results.rows):
            self.rows[row.image].append((number, row))

    def original(self, name: str) -> Path:
        return self.folder / "files" / name / "original.png"

    def area(self, name: str) -> int:
        """Pixels of the original."""
        return next((row.width * row.height for _, row in self.rows[name] if row.width and row.height), 0)

    def take(self, name: str) -> Iterator[tuple[str, Pixels | Stored | str]]:
        """An image's pictures by key: pixels, or a file that browsers read, or the reason why there is none."""
        try:
            yield f"o{self.numbers[name]}", _pixels(self.original(name).read_bytes())
        except OSError as error:
            raise ResultsError(f"{self.original(name)}: cannot be read ({error}); run the evaluation again") from error
        for number, row in self.rows[name]:
            if row.file:
                yield f"r{number}", self._row(row)

    def _row(self, row: Row) -> Pixels | Stored | str:
        try:
            data = (self.folder / row.file).read_bytes()
        except OSError as error:
            return f"its file cannot be read ({error.strerror})"
        mime = _read_by_browsers(data, row)
        if mime is not None:
            return Stored(mime, data, from_pixels=False)
        try:
            return self.decode(row.codec, data)[: row.height, : row.width]
        except Exception as error:  # codecs are anybody's code, and a report is made even where one is missing
            return f"its file cannot be decoded here ({error})"


def _quality_that_fits(shelf: _Shelf, names: Sequence[str], max_bytes: int) -> int | None:
    """The best of QUALITIES by the size of an evenly spaced sample, scaled up by area; the last where none fits."""
    sample = names[:: -(-len(names) // SAMPLE) or 1]
    pictures = [found for name in sample for _, found in shelf.take(name) if not isinstance(found, str)]
    share = sum(map(shelf.area, sample)) / max(1, sum(map(shelf.area, names)))
    room = max_bytes * share * (1 if len(sample) == len(names) else MARGIN)
    for quality in QUALITIES[:-1]:
        lengths = (found.length if isinstance(found, Stored) else _stored(found, quality).length for found in pictures)
        if all(total <= room for total in itertools.accumulate(lengths)):  # stops at the first that is too much
            return quality
    return QUALITIES[-1]


def _read_by_browsers(data: bytes, row: Row) -> str | None:
    """The type of a file that a browser shows at the picture's size; smaller ones are to be scaled up by their codec."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return BROWSER_KINDS.get(image.format or "") if image.size == (row.width, row.height) else None
    except OSError:
        return None


def _stored(pixels: Pixels, quality: int | None) -> Stored:
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    if quality is None and max(image.size) <= WEBP_SIDE:
        image.save(buffer, "WEBP", lossless=True, quality=50, method=4)
        return Stored("image/webp", buffer.getvalue(), from_pixels=True)
    # Speed 9 takes a sixth of the time of speed 7, and 4% more bytes.
    image.save(buffer, "AVIF", quality=quality or QUALITIES[1], subsampling="4:4:4", speed=9)
    return Stored("image/avif", buffer.getvalue(), from_pixels=True)


def _pixels(data: bytes) -> Pixels:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))
