"""Comparison of codecs on one image at equal bytes, for `compare` and the demo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from sdcodec.errors import ImageError
from sdcodec_eval.codecs.protocol import Pixels
from sdcodec_eval.codecs.registry import CodecSpec
from sdcodec_eval.evaluation import FILES, ORIGINAL, Evaluator
from sdcodec_eval.montage import side_by_side
from sdcodec_eval.pictures import Source
from sdcodec_eval.plan import Plan
from sdcodec_eval.rows import ERROR, Row


@dataclass(frozen=True, eq=False)
class Result:
    """Row of one codec, its file and its pixels; both None if unreachable."""

    row: Row
    extension: str
    data: bytes | None
    pixels: Pixels | None

    @property
    def label(self) -> str:
        """Return the two-line label of the image."""
        row = self.row
        if row.bytes is None:
            return f"{row.codec}\ncannot reach this size"
        return f"{row.codec}, {row.bytes} bytes\n" + "  ".join(
            f"{title} {value:.{digits}f}{unit}"
            for title, column, digits, unit in (("PSNR", "psnr", 2, " dB"), ("LPIPS", "lpips_alex", 3, ""))
            if (value := row.values.get(column)) is not None
        )


@dataclass(frozen=True, eq=False)
class Comparison:
    """Original, uint8 `[H, W, 3]`, and the results of the codecs.

    left_out: codecs that failed on the image, by label, with the reason.
    """

    original: Pixels
    results: Sequence[Result]
    left_out: Mapping[str, str]

    def picture(self, columns: int | None = None) -> Image.Image:
        """Draw the original and all results, labelled; grey for an unreachable size."""
        height, width = self.original.shape[:2]
        empty = np.full_like(self.original, 216)
        shown = [(f"original\n{width} x {height}", self.original)]
        shown += [(r.label, empty if r.pixels is None else r.pixels) for r in self.results]
        return side_by_side(shown, columns)

    def table(self) -> str:
        """Return the results as a table in plain text."""
        width = max([12, *(len(result.row.codec) for result in self.results)])
        lines = [f"{'codec':{width}} {'quality':>7} {'bytes':>8} {'PSNR':>7} {'SSIM':>7} {'LPIPS':>7}"]
        for row in (result.row for result in self.results):
            if row.bytes is None:
                lines.append(f"{row.codec:{width}} cannot reach this size")
            else:
                cells = [
                    f"{value:7.{digits}f}" if (value := row.values.get(column)) is not None else " " * 7
                    for column, digits in (("psnr", 2), ("ssim", 4), ("lpips_alex", 4))
                ]
                lines.append(f"{row.codec:{width}} {row.quality:7g} {row.bytes:8d} {' '.join(cells)}")
        return "\n".join(lines)


def compare(path: Path, budget: int, codecs: Sequence[CodecSpec], crop: int | None = None) -> Comparison:
    """Compare codecs on one image at a budget in bytes.

    A codec that fails is left out. Raises ImageError if the image cannot be read or every codec fails, OptionError for
    an invalid codec or crop.
    """
    plan = Plan(tuple(codecs), budgets=(budget,), crop=crop, metrics=("psnr", "ssim", "lpips"), ceiling=False)
    evaluator = Evaluator(plan)
    with TemporaryDirectory() as folder:
        source = Source("picture", path)
        rows = {row.codec: row for row in evaluator.evaluate(source, Path(folder))}
        left_out = {
            label: row.status.removeprefix(f"{ERROR}: ") for label, row in rows.items() if row.status.startswith(ERROR)
        }
        if len(left_out) == len(rows):
            label, reason = next(iter(left_out.items()))
            raise ImageError(reason if rows[label].width is None else f"{path}: {label}: {reason}")
        with Image.open(Path(folder) / FILES / source.name / ORIGINAL) as image:
            original = np.asarray(image.convert("RGB"))
        results = []
        for label, codec in evaluator.codecs.items():
            if label in left_out:
                continue
            file = rows[label].file
            data = (Path(folder) / file).read_bytes() if file else None
            pixels = None if data is None else codec.decode(data)[: original.shape[0], : original.shape[1]]
            results.append(Result(rows[label], codec.extension, data, pixels))
    return Comparison(original, results, left_out)
