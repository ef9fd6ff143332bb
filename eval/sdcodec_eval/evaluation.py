"""Evaluation of one image: encode at equal bytes, read back, decode and measure."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from sdcodec.errors import ImageError, SdcodecError
from sdcodec.files import atomic_write
from sdcodec.pixels import to_image_file
from sdcodec_eval.codecs.protocol import ImageCodec, Pixels, RateControlled, WithCeiling
from sdcodec_eval.codecs.registry import build, described
from sdcodec_eval.measuring import Meter
from sdcodec_eval.pictures import Source, centre_crop, pixel_digest, read
from sdcodec_eval.plan import Plan, Point
from sdcodec_eval.rates import QualitySearch, Trial, encode
from sdcodec_eval.rows import ERROR, OK, UNREACHABLE, Journal, Row, error_status

A = TypeVar("A")
R = TypeVar("R")
FILES = "files"
ORIGINAL = "original.png"


@dataclass(frozen=True)
class Coded:
    """Encoded file, and whether it meets the limit."""

    trial: Trial
    met: bool


class Evaluator:
    """Codecs and metrics of a plan, loaded once and used for all images."""

    def __init__(self, plan: Plan) -> None:
        """Load the codecs; raise OptionError or BundleError if one is not available."""
        self.plan = plan
        self.codecs: dict[str, ImageCodec] = {spec.label: build(spec) for spec in plan.codecs}
        self.meter = Meter(plan.metrics, plan.vgg_weights)
        self.reference = next(
            (label for label, codec in self.codecs.items() if isinstance(codec, RateControlled)), None
        )
        self._warm = False

    def evaluate(self, source: Source, folder: Path) -> Iterator[Row]:
        """Compute the missing rows of an image's journal; yield each after it is on disk."""
        place = folder / FILES / source.name
        journal = Journal(place)
        missing = list(self._missing(source, journal))
        if not missing and not self._ceilings_missing(journal):
            return
        try:
            pixels = read(source)
            digest = pixel_digest(pixels)
            pixels = centre_crop(pixels, self.plan.crop)
        except (SdcodecError, OSError, MemoryError) as error:
            for label, point in missing:
                journal.add(row := self._without_file(source, label, point, error_status(error)))
                yield row
            return
        self._warm_up()
        if journal.record.digest is None:
            atomic_write(place / ORIGINAL, to_image_file(Image.fromarray(pixels), "png"), force=True)
            journal.add_digest(digest)
        searches = {label: QualitySearch(codec, pixels) for label, codec in self.codecs.items()}
        for label, point in missing:
            journal.add(row := self._row(source, label, point, pixels, searches[label], journal, place))
            yield row
        for label in self._ceilings_missing(journal):
            journal.add_ceiling(label, self._ceiling(label, pixels))

    def _missing(self, source: Source, journal: Journal) -> Iterator[tuple[str, Point]]:
        """Yield labels and points without a row, or with an error, the reference first."""
        labels = sorted(self.codecs, key=lambda label: label != self.reference)
        pairs = [(label, i, point) for label in labels for i, point in enumerate(self.plan.points(label))]
        for label, _, point in sorted(pairs, key=lambda pair: pair[1]):
            row = journal.record.rows.get((source.name, label, point.text))
            if row is None or row.status.startswith(ERROR):
                yield label, point

    def _ceilings_missing(self, journal: Journal) -> list[str]:
        if not self.plan.ceiling:
            return []
        having = (label for label, codec in self.codecs.items() if isinstance(codec, WithCeiling))
        return [label for label in having if label not in journal.record.ceilings]

    def _row(
        self,
        source: Source,
        label: str,
        point: Point,
        pixels: Pixels,
        search: QualitySearch,
        journal: Journal,
        place: Path,
    ) -> Row:
        """Encode, write, decode and measure one file."""
        height, width = pixels.shape[:2]
        codec = self.codecs[label]
        limit = self._limit(source, label, point, journal)
        bare = self._without_file(source, label, point, UNREACHABLE, width, height, limit)
        try:
            coded = self._coded(codec, pixels, point, limit, search)
        except Exception as error:  # third-party codecs raise anything; the other rows continue
            return replace(bare, status=error_status(error))
        if coded is None:
            return bare
        file = place / f"{label}-{point.text}.{codec.extension}"
        atomic_write(file, coded.trial.data, force=True)
        try:
            decoded, seconds = _timed(lambda data: _fitting(codec.decode(data), width, height), file.read_bytes())
            values = self.meter.measure(pixels, decoded)
        except Exception as error:
            return replace(bare, status=error_status(error))
        return replace(
            bare,
            status=OK if coded.met else UNREACHABLE,
            quality=coded.trial.quality,
            bytes=len(coded.trial.data),
            file=f"{FILES}/{source.name}/{file.name}",
            values=values,
            encode_seconds=coded.trial.seconds,
            decode_seconds=seconds,
        )

    def _limit(self, source: Source, label: str, point: Point, journal: Journal) -> int | None:
        """Return the size limit in bytes: the budget, or the reference's file size."""
        if point.budget is None or self.reference is None or isinstance(self.codecs[label], RateControlled):
            return point.budget
        reference = journal.record.rows.get((source.name, self.reference, point.text))
        if reference is None or reference.bytes is None:
            return point.budget
        return min(point.budget, reference.bytes)

    def _coded(
        self, codec: ImageCodec, pixels: Pixels, point: Point, limit: int | None, search: QualitySearch
    ) -> Coded | None:
        """Encode the file of a point; None if the limit is unreachable and not forced."""
        if limit is None:
            assert point.quality is not None
            return Coded(encode(codec, pixels, point.quality), met=True)
        if isinstance(codec, RateControlled):
            found, seconds = _timed(lambda bound: codec.encode_within(pixels, bound), limit)
            trial = None if found is None else Trial(*found, seconds)
        else:
            trial = search.largest_within(limit)
        if trial is None and self.plan.unreachable == "show":
            return None
        trial = trial or search.lowest()
        return Coded(trial, met=len(trial.data) <= limit)

    def _ceiling(self, label: str, pixels: Pixels) -> dict[str, float | None]:
        codec = self.codecs[label]
        assert isinstance(codec, WithCeiling)
        height, width = pixels.shape[:2]
        return self.meter.measure(pixels, _fitting(codec.round_trip(pixels), width, height))

    def _without_file(
        self,
        source: Source,
        label: str,
        point: Point,
        status: str,
        width: int | None = None,
        height: int | None = None,
        limit: int | None = None,
    ) -> Row:
        settings = described(self.codecs[label].settings)
        return Row(
            source.name, label, settings, point.budget, point.quality, status, width, height, limit, point=point.text
        )

    def _warm_up(self) -> None:
        """Run every codec once, so that lazy loading does not count for the first image."""
        if self._warm:
            return
        self._warm = True
        pixels = np.zeros((64, 64, 3), np.uint8)
        for codec in self.codecs.values():
            try:
                codec.decode(codec.encode(pixels, codec.qualities[0]))
            except Exception:  # the rows of the codec report the error
                continue


def _timed(function: Callable[[A], R], argument: A) -> tuple[R, float]:
    start = time.perf_counter()
    result = function(argument)
    return result, time.perf_counter() - start


def _fitting(decoded: Pixels, width: int, height: int) -> Pixels:
    """Crop the padding of a decoded image; raise ImageError if it is too small."""
    if decoded.dtype != np.uint8 or decoded.ndim != 3 or decoded.shape[2] != 3:
        raise ImageError(f"decoded to {decoded.dtype} {list(decoded.shape)}; a codec decodes to uint8 [H, W, 3]")
    if decoded.shape[0] < height or decoded.shape[1] < width:
        raise ImageError(f"decoded to {decoded.shape[1]} x {decoded.shape[0]} pixels, not {width} x {height}")
    return np.ascontiguousarray(decoded[:height, :width])
