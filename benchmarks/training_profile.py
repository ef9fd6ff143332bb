"""A training step on paper: its operations, and the time that a GPU would need.

    python benchmarks/training_profile.py recipes/base.toml --vgg vgg16-397923af.pth

Steps of the codec stage with two sizes of crops run on the CPU, and every operation is recorded: multiplications, and
bytes read and written. The part that grows with the pixels is scaled to the batch of the recipe, that of the weights
stays. An operation takes the longer of multiplications over the speed of the tensor cores, and bytes over the bandwidth
of the memory; bytes are those of float32, halved for convolutions, which run in bfloat16. The last line is the time if
all operations between two convolutions were one, which reads its inputs and writes its outputs once: the most that
compilation can reach.
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

BATCH, CROPS = 3, (64, 128)
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


class Recorder(TorchDispatchMode):
    """Counts calls, multiplications and bytes of every operation.

    All results are kept until the end, so that no address serves twice.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, list[float]] = defaultdict(lambda: [0, 0, 0])
        self.kept: list[Any] = []
        self.steps: list[tuple[bool, dict[int, int], dict[int, int]]] = []  # whether products; sizes read and written

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run and record an operation."""
        result = func(*args, **(kwargs or {}))
        self.kept.append(result)
        name = func._schema.name.removeprefix("aten::").rstrip("_")
        if name in SHAPES_ONLY:
            return result
        counter = flop_registry.get(func._overloadpacket)
        read, written = _sizes(args), _sizes(result)
        row = self.found[name]
        row[0] += 1
        row[1] += counter(*args, **(kwargs or {}), out_val=result) / 2 if counter else 0
        row[2] += sum(read.values()) + sum(written.values())
        self.steps.append((counter is not None, read, written))
        return result

    def fused_bytes(self) -> int:
        """Return the bytes of all but products, with those in between made one each."""
        last_read = {place: number for number, step in enumerate(self.steps) for place in step[1]}
        total, begin = 0, 0
        for number, (products, _, _) in enumerate([*self.steps, (True, {}, {})]):
            if not products:
                continue
            inputs: dict[int, int] = {}
            made: dict[int, int] = {}
            for _, read, written in self.steps[begin:number]:
                inputs |= {place: size for place, size in read.items() if place not in made}
                made |= written
            outputs = [size for place, size in made.items() if last_read.get(place, number) >= number]
            total, begin = total + sum(inputs.values()) + sum(outputs), number + 1
        return total


def _sizes(values: Any) -> dict[int, int]:
    """Return the bytes of tensors in nested lists, by address of their storage."""
    if isinstance(values, Tensor):
        return {values.untyped_storage().data_ptr(): values.numel() * values.element_size()}
    found: dict[int, int] = {}
    for each in values if isinstance(values, (list, tuple)) else ():
        found |= _sizes(each)
    return found


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
    recorders = []
    for crop in CROPS:
        stage.model.zero_grad()
        with Recorder() as recorder:
            stage.backward(torch.rand(BATCH, 3, crop, crop), stage.inputs(BATCH))
        recorders.append(recorder)
    few, many = (BATCH * crop**2 for crop in CROPS)
    growth = (config.batch * config.crop_size**2 - few) / (many - few)
    first, second = (recorder.found for recorder in recorders)
    print(f"a step of {config.batch} crops of {config.crop_size}x{config.crop_size}, without the optimiser")
    print(f"{'operation':34} {'calls':>6} {'GMAC':>8} {'GB':>8} {'ms':>7}")
    rows = []
    for name, (calls, *_) in second.items():
        products, size = (x + growth * (y - x) for x, y in zip(first[name][1:], second[name][1:], strict=True))
        size /= 2 if products else 1
        ms = 1e3 * max(2 * products / arguments.tflops / 1e12, size / arguments.bandwidth / 1e12)
        rows.append((ms, name, calls, products, size))
    for ms, name, calls, products, size in sorted(rows, reverse=True)[:25]:
        print(f"{name:34} {calls:6} {products / 1e9:8.0f} {size / 1e9:8.2f} {ms:7.2f}")
    matrix = sum(row[0] for row in rows if row[3])
    low, high = (recorder.fused_bytes() for recorder in recorders)
    fused = 1e3 * (low + growth * (high - low)) / arguments.bandwidth / 1e12
    for name, ms in (
        ("convolutions and products", matrix),
        ("everything", sum(row[0] for row in rows)),
        ("everything between them fused", matrix + fused),
    ):
        print(f"{name:34} {'':24} {ms:7.2f}  {1e3 * config.batch / ms:.0f} crops/s")


if __name__ == "__main__":
    main()
