"""Registry of the metrics: columns, units, direction, requirements."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sdcodec.errors import OptionError
from sdcodec.options import installed
from sdcodec_eval.codecs.protocol import Pixels

Value = float | None
DEFAULT = ("psnr", "psnr-y", "ssim", "ms-ssim", "lpips")


@dataclass(frozen=True)
class Metric:
    """Description of a metric.

    name: on the command line; column: in the CSV; key: in CompressAI's JSON; title, unit: in tables and plots.
    smallest: smallest side of an image, in pixels, for which the metric is defined.
    """

    name: str
    column: str
    key: str
    title: str
    unit: str = ""
    higher_is_better: bool = True
    smallest: int = 1
    needs_vgg: bool = False

    @property
    def label(self) -> str:
        """Return title and unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


METRICS = {
    metric.name: metric
    for metric in (
        Metric("psnr", "psnr", "psnr-rgb", "PSNR", "dB"),
        Metric("psnr-y", "psnr_y", "psnr-y", "PSNR-Y", "dB"),
        Metric("ssim", "ssim", "ssim-rgb", "SSIM", smallest=11),
        Metric("ms-ssim", "ms_ssim", "ms-ssim-rgb", "MS-SSIM", smallest=161),
        Metric("lpips", "lpips_alex", "lpips-alex", "LPIPS-Alex", higher_is_better=False, smallest=31),
        Metric("lpips-vgg", "lpips_vgg", "lpips-vgg", "LPIPS-VGG", higher_is_better=False, smallest=16, needs_vgg=True),
        Metric("dists", "dists", "dists", "DISTS", higher_is_better=False, smallest=16, needs_vgg=True),
        Metric("ssimulacra2", "ssimulacra2", "ssimulacra2", "SSIMULACRA 2", smallest=8),
    )
}


def chosen(names: Sequence[str]) -> list[Metric]:
    """Return the named metrics in canonical order; raises OptionError."""
    if unknown := set(names) - METRICS.keys():
        raise OptionError(f"unknown metric {', '.join(sorted(unknown))}; choose from {', '.join(METRICS)}")
    return [metric for name, metric in METRICS.items() if name in names]


class Meter:
    """Measurement by chosen metrics; networks are loaded at first use and kept."""

    def __init__(self, names: Sequence[str], vgg_weights: Path | None = None) -> None:
        """Select the metrics and check their requirements.

        vgg_weights: file of VGG-16's convolutions; None searches torchvision's cache.

        Raises OptionError, with the remedy, if a metric is unknown or its package or weights are missing.
        """
        self.metrics = chosen(names)
        if any(metric.name == "ssimulacra2" for metric in self.metrics) and not installed("ssimulacra2"):
            raise OptionError(
                "the metric ssimulacra2 needs the package ssimulacra2; install sdcodec[ssimulacra2], or omit the metric"
            )
        if needing := [metric.name for metric in self.metrics if metric.needs_vgg]:
            vgg_weights = _vgg_weights(vgg_weights, needing[0])
        self._functions = _functions(vgg_weights)

    def measure(self, original: Pixels, decoded: Pixels) -> dict[str, Value]:
        """Measure two images, uint8 `[H, W, 3]`; None for metrics that need larger ones."""
        side = min(original.shape[:2])
        return {
            metric.column: self._functions[metric.name](original, decoded) if side >= metric.smallest else None
            for metric in self.metrics
        }


def _vgg_weights(given: Path | None, metric: str) -> Path:
    from sdcodec.perceptual.vgg import TORCHVISION_FILE, find_vgg16, read_vgg16

    found = given or find_vgg16()
    if found is None:
        raise OptionError(
            f"{metric} needs VGG-16's weights, which sdcodec does not include; give {TORCHVISION_FILE} or the same tensors as "
            "safetensors with --lpips-vgg-weights, or omit the metric"
        )
    read_vgg16(found)  # an invalid file ends the run before its first image
    return found


def _functions(vgg_weights: Path | None) -> Mapping[str, Callable[[Pixels, Pixels], float]]:
    from sdcodec import measures
    from sdcodec_eval import metrics

    functions: dict[str, Callable[[Pixels, Pixels], float]] = {
        "psnr": measures.psnr,
        "psnr-y": metrics.psnr_y,
        "ssim": metrics.ssim,
        "ms-ssim": metrics.ms_ssim,
        "lpips": measures.lpips,
        "ssimulacra2": measures.ssimulacra2,
    }
    if vgg_weights is not None:
        functions["lpips-vgg"] = lambda one, other: metrics.lpips_vgg(one, other, vgg_weights)
        functions["dists"] = lambda one, other: metrics.dists(one, other, vgg_weights)
    return functions
