"""Pictures of a report: encoded files that browsers read, or stored pixels."""

from __future__ import annotations

import base64
import io
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from sdcodec.measures import psnr
from sdcodec_eval.codecs.protocol import Pixels
from sdcodec_eval.evaluation import FILES, ORIGINAL
from sdcodec_eval.report.results import Results, ResultsError, Row

Decoder = Callable[[str, bytes], Pixels]
"""Function from a codec's label and a file's bytes to uint8 `[H, W, 3]`."""

BROWSER_KINDS = {"JPEG": "image/jpeg", "WEBP": "image/webp", "AVIF": "image/avif", "PNG": "image/png"}
QUALITIES = (None, 95, 90, 85)
"""Storage of pixels, best first: None is lossless, a number a quality of AVIF 4:4:4."""
WEBP_SIDE = 16383  # maximum of the format, in pixels
SAMPLE = 4  # images for the choice among QUALITIES
MARGIN = 0.9  # of max_bytes, since the sample is only an estimate


@dataclass(frozen=True)
class Stored:
    """Picture in a format that browsers read."""

    mime: str
    data: bytes
    from_pixels: bool

    @property
    def base64(self) -> str:
        return base64.b64encode(self.data).decode("ascii")

    @property
    def length(self) -> int:
        """Return the number of characters in the page."""
        return 4 * -(-len(self.data) // 3)


@dataclass
class Gallery:
    """Pictures of the page by key.

    The key `o3` is the original of image 3, `r12` the file of row 12, both counted from 0.
    quality: one of QUALITIES. worst_psnr: minimum PSNR between stored and real pixels, in dB.
    absent: reasons by row; left_out: names of the images that did not fit.
    """

    quality: int | None
    pictures: dict[str, Stored] = field(default_factory=dict)
    absent: dict[int, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    worst_psnr: float = math.inf


def gather(results: Results, order: Sequence[str], max_bytes: int, decode: Decoder) -> Gallery:
    """Collect originals and results of the images, up to `max_bytes` of base64.

    Files that browsers read are included unchanged. Originals and the decoded pixels of other codecs are stored at the
    best of QUALITIES that fits, estimated from a sample. The last images of the order are left out if they do not fit.
    """
    shelf = _Shelf(results, decode)
    readable = [name for name in order if shelf.original(name).is_file()]  # the rows of the others report the error
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
    """Pictures of a results folder, read and decoded on demand."""

    def __init__(self, results: Results, decode: Decoder) -> None:
        self.folder, self.decode = results.folder, decode
        self.numbers = {name: number for number, name in enumerate(results.images)}
        self.rows: dict[str, list[tuple[int, Row]]] = {name: [] for name in self.numbers}
        for number, row in enumerate(results.rows):
            self.rows[row.image].append((number, row))

    def original(self, name: str) -> Path:
        return self.folder / FILES / name / ORIGINAL

    def area(self, name: str) -> int:
        """Return the number of pixels of the original."""
        return next((row.width * row.height for _, row in self.rows[name] if row.width and row.height), 0)

    def take(self, name: str) -> Iterator[tuple[str, Pixels | Stored | str]]:
        """Yield original and results of an image by key: pixels, a file, or a reason."""
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
        except Exception as error:  # third-party codecs raise anything; the report goes without the image
            return f"its file cannot be decoded here ({error})"


def _quality_that_fits(shelf: _Shelf, names: Sequence[str], max_bytes: int) -> int | None:
    """Choose from QUALITIES by a sample, scaled by area; the last if none fits."""
    sample = names[:: -(-len(names) // SAMPLE) or 1]
    pictures = [found for name in sample for _, found in shelf.take(name) if not isinstance(found, str)]
    share = sum(map(shelf.area, sample)) / max(1, sum(map(shelf.area, names)))
    room = max_bytes * share * (1 if len(sample) == len(names) else MARGIN)
    for quality in QUALITIES[:-1]:
        lengths = (found.length if isinstance(found, Stored) else _stored(found, quality).length for found in pictures)
        if all(total <= room for total in itertools.accumulate(lengths)):  # stops at the first excess
            return quality
    return QUALITIES[-1]


def _read_by_browsers(data: bytes, row: Row) -> str | None:
    """Return the MIME type if browsers show the file at full size, else None."""
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
    # Speed 9 takes a sixth of the time of speed 7, with 4% more bytes.
    image.save(buffer, "AVIF", quality=quality or QUALITIES[1], subsampling="4:4:4", speed=9)
    return Stored("image/avif", buffer.getvalue(), from_pixels=True)


def _pixels(data: bytes) -> Pixels:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))
