"""Configuration of the learned prior, and the tensors that belong to it."""

from __future__ import annotations

from dataclasses import dataclass

from sdcodec.constants import QUALITY_LEVELS
from sdcodec.priors.passes import PASSES

HYPER_KERNEL = 3  # of the layers from hyper-latents to features, and between hyper-latents
ANALYSIS_KERNELS = (4, 4, 3)  # of the encoder's layers from latents to hyper-latents

Shape = tuple[int, ...]


@dataclass(frozen=True)
class PriorConfig:
    """Widths of the learned prior; the defaults are those of `base`."""

    latent_channels: int = 64
    hyper_channels: int = 24
    width: int = 96
    middle: int = 64
    expansion: int = 2
    blocks: int = 2
    context_kernel: int = 5
    passes: int = PASSES  # or PASSES_IN_PARTS
    hyper_context: int = 64  # width of the networks that predict hyper-latents from their neighbours; 0: none
    direct_kernel: int = 0  # of a linear path from context to means; 0: none

    @property
    def hyper_passes(self) -> int:
        """Number of passes of the hyper-latents."""
        return PASSES if self.hyper_context else 1


def tensor_shapes(config: PriorConfig) -> dict[str, Shape]:
    """Return the name and shape of every tensor that `LearnedPrior` reads."""
    channels, hyper, width, middle = config.latent_channels, config.hyper_channels, config.width, config.middle
    shapes: dict[str, Shape] = {
        "hyper_mean": (QUALITY_LEVELS, hyper),
        "hyper_table": (QUALITY_LEVELS, hyper),
        "hyper_multiplier": (QUALITY_LEVELS, hyper),
        "context_multiplier": (QUALITY_LEVELS, channels),
        "table_offset": (QUALITY_LEVELS, channels),
        "analyse_input": (QUALITY_LEVELS, channels),
        "analyse_output": (QUALITY_LEVELS, hyper),
    }
    widths = (channels, width, width, hyper)
    for index, kernel in enumerate(ANALYSIS_KERNELS, start=1):
        shapes[f"analyse_{index}.weight"] = (widths[index], widths[index - 1], kernel, kernel)
        shapes[f"analyse_{index}.bias"] = (widths[index],)

    def layer(name: str, inputs: int, outputs: int, rows: int = 1) -> None:
        shapes[f"{name}.weight"] = (outputs, inputs)
        shapes[f"{name}.bias"] = (rows, outputs)
        shapes[f"{name}.shift"] = (outputs,)

    def head(name: str, inputs: int, outputs: int) -> None:
        layer(f"{name}.head", inputs, 2 * outputs)
        shapes[f"{name}.mean_multiplier"] = (QUALITY_LEVELS, outputs)
        shapes[f"{name}.table_multiplier"] = (1, outputs)

    area = HYPER_KERNEL**2
    layer("synthesise_1", hyper * area, 4 * middle, QUALITY_LEVELS)
    layer("synthesise_2", middle * area, 4 * width, QUALITY_LEVELS)
    layer("synthesise_3", width * area, width, QUALITY_LEVELS)
    if config.hyper_context:
        shapes["hyper_offset"] = (QUALITY_LEVELS, hyper)
    for k in range(1, config.hyper_passes):
        layer(f"hyper{k}.entry", hyper * area, config.hyper_context, QUALITY_LEVELS)
        head(f"hyper{k}", config.hyper_context, hyper)
    for k in range(config.passes):
        context = channels * config.context_kernel**2 if k else 0
        layer(f"pass{k}.entry", context + width, width, QUALITY_LEVELS)
        shapes[f"pass{k}.cell"] = (4, width)
        for block in range(config.blocks):
            layer(f"pass{k}.expand{block}", width, config.expansion * width)
            layer(f"pass{k}.project{block}", config.expansion * width, width)
        head(f"pass{k}", width, channels)
        if config.direct_kernel and k:
            layer(f"pass{k}.direct", channels * config.direct_kernel**2, channels)
            shapes[f"pass{k}.direct_multiplier"] = (QUALITY_LEVELS, channels)
    return shapes
