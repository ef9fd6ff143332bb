"""Compiled parts of a training step: their check, and the time they gain.

    python benchmarks/compiled_step.py recipes/base.toml --vgg vgg16-397923af.pth [--batch 32] [--crop 256]

Each part is checked as at the start of a run, on random smooth crops. Compiled and plain steps then take turns; times
are medians, without optimisers and without recording. On a CPU this needs a C++ compiler and several minutes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from sdcodec import hardware
from sdcodec.training.compiling import parts_of, repeatable_loss, uncompiled, use_compiled
from sdcodec.training.config import load_config
from sdcodec.training.model import TrainingModel
from sdcodec.training.stages import CodecStage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--vgg", required=True)
    parser.add_argument("--batch", type=int, default=3)
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    overrides = dict(each.split("=", 1) for each in options.set)
    overrides |= {"vgg": json.dumps(str(Path(options.vgg).resolve())), "stage": '"codec"', "batch": str(options.batch)}
    config = load_config(options.recipe, overrides)
    device = hardware.device(options.device)
    torch.manual_seed(config.seed)
    model = TrainingModel(config.autoencoder, config.prior).to(device).train()
    stage = CodecStage(config, model, device)
    stage.begin(1.0, 1.0)
    small = torch.rand(options.batch, 3, options.crop // 4, options.crop // 4, device=device)
    images = F.interpolate(small, scale_factor=4, mode="bicubic").clamp(0, 1)
    quality = stage.inputs(options.batch)[0].to(device)
    loss = repeatable_loss(model, stage.objective, images, quality, config.seed)

    def seconds() -> float:
        model.zero_grad()
        begin = time.perf_counter()
        loss(False).backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - begin

    begin = time.perf_counter()
    use_compiled(parts_of(model, stage.objective), list(model.parameters()), loss, print)
    print(f"checked in {time.perf_counter() - begin:.0f} s")
    seconds()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(options.repeats):
        times[0].append(seconds())
        with uncompiled():
            times[1].append(seconds())
    compiled, plain = map(statistics.median, times)
    print(f"{1e3 * compiled:.1f} ms compiled, {1e3 * plain:.1f} ms plain: ratio {plain / compiled:.2f}")


if __name__ == "__main__":
    main()
