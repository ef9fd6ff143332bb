"""A training step on paper: its operations, and the time that a GPU would need.

    python benchmarks/training_profile.py recipes/base.toml --vgg vgg16-397923af.pth

One step of the codec stage runs on the CPU with a small batch, and every operation is recorded: multiplications, and
bytes read and written. Both are scaled to the batch of the recipe. An operation takes the longer of multiplications
over the speed of the tensor cores, and bytes over the bandwidth of the memory; bytes are those of float32, halved for
convolutions, which run in bfloat16. Fusing element-wise operations saves their bytes: the last line is the time if
each chain of them read its inputs and wrote its outputs once.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from sdcodec.training.config import load_config
from sdcodec.training.model import TrainingModel
from sdcodec.training.stages import CodecStage

BATCH, CROP = 3, 64
SHAPES_ONLY = (
    "view",
    "t",
    "transpose",
    "permute",
    "expand",
    "slice",
    "select",
    "split",
    "unsqueeze",
    "squeeze",
    "detach",
)
SHAPES_ONLY += ("alias", "as_strided", "unbind", "_unsafe_view", "split_with_sizes", "lift_fresh", "diagonal")
FUSED_PASSES = 5.0  # operations of an element-wise chain, about, that compilation makes one


class Recorder(TorchDispatchMode):
    """Counts calls, multiplications and bytes of every operation."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, list[float]] = defaultdict(lambda: [0, 0, 0])

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run and record an operation."""
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::").rstrip("_")
        if name in SHAPES_ONLY:
            return result
        counter = flop_registry.get(func._overloadpacket)
        row = self.found[name]
        row[0] += 1
        row[1] += counter(*args, **(kwargs or {}), out_val=result) / 2 if counter else 0
        row[2] += _size(args) + _size(result)
        return result


def _size(values: Any) -> int:
    if isinstance(values, Tensor):
        return values.numel() * values.element_size()
    return sum(map(_size, values)) if isinstance(values, (list, tuple)) else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--vgg", required=True)
    parser.add_argument("--tflops", type=float, default=400, help="of bfloat16 that convolutions reach")
    parser.add_argument("--bandwidth", type=float, default=2.5, help="TB/s that element-wise operations reach")
    arguments = parser.parse_args()
    overrides = {"vgg": json.dumps(str(Path(arguments.vgg).resolve())), "stage": '"codec"', "autocast": "false"}
    config = load_config(arguments.recipe, overrides)
    share = config.vgg_images / config.batch if config.vgg_images else 1.0
    small = load_config(arguments.recipe, overrides | {"vgg_images": str(round(share * BATCH)), "batch": str(BATCH)})
    stage = CodecStage(small, TrainingModel(config.autoencoder, config.prior).train(), torch.device("cpu"))
    stage.begin(1.0, 1.0)
    with Recorder() as recorder:
        stage.backward(torch.rand(BATCH, 3, CROP, CROP), stage.inputs(BATCH))
    scale = config.batch * config.crop_size**2 / (BATCH * CROP**2)
    print(f"a step of {config.batch} crops of {config.crop_size}x{config.crop_size}, without the optimiser")
    print(f"{'operation':34} {'calls':>6} {'GMAC':>8} {'GB':>8} {'ms':>7}")
    rows = []
    for name, (calls, products, size) in recorder.found.items():
        size = size * scale / (2 if products else 1)
        products *= scale
        rows.append(
            (
                1e3 * max(2 * products / arguments.tflops / 1e12, size / arguments.bandwidth / 1e12),
                name,
                calls,
                products,
                size,
            )
        )
    for ms, name, calls, products, size in sorted(rows, reverse=True)[:25]:
        print(f"{name:34} {calls:6} {products / 1e9:8.0f} {size / 1e9:8.2f} {ms:7.2f}")
    total = sum(row[0] for row in rows)
    matrix = sum(row[0] for row in rows if row[3])
    for name, ms in (
        ("convolutions and products", matrix),
        ("everything", total),
        ("element-wise chains fused", matrix + (total - matrix) / FUSED_PASSES),
    ):
        print(f"{name:34} {'':24} {ms:7.2f}  {1e3 * config.batch / ms:.0f} crops/s")


if __name__ == "__main__":
    main()
