"""Measure the latency of a model's networks and of whole files on one device.

    python benchmarks/latency.py [--model base] [--device cuda] [--side 512] [--rounds 20]

For each precision: the encoder and the decoder alone, on one image and on eight; then `Codec.encode` without effort and
`Codec.decode`, which also run the prior and the entropy coder. Times are medians in milliseconds, warm.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from sdcodec import Codec
from sdcodec.bundles import store

QUALITY = 30
WARM_UP = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=store.DEFAULT)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    for precision in options.precisions:
        codec = Codec(options.model, device=options.device, precision=precision)
        if precision == options.precisions[0]:
            name = torch.cuda.get_device_name() if codec.device.type == "cuda" else codec.device.type
            print(f"{codec.name} on {name}, PyTorch {torch.__version__}, {options.side}x{options.side}")
        for batch in options.batches:
            encoder, decoder = _networks(codec, batch, options.side, options.rounds)
            print(f"{precision}, batch {batch}: encoder {encoder:.2f} ms, decoder {decoder:.2f} ms", flush=True)
        encode, decode, size = _files(codec, options.side, options.rounds)
        print(f"{precision}: encode {encode:.1f} ms, decode {decode:.1f} ms, {size} bytes", flush=True)


def _networks(codec: Codec, batch: int, side: int, rounds: int) -> tuple[float, float]:
    """Return milliseconds of the encoder and of the decoder."""
    autoencoder = codec._model.autoencoder
    images = torch.rand(batch, 3, side, side, device=codec.device)
    latents = autoencoder.encode(images)
    encoder = _median(lambda: autoencoder.encode(images), codec.device, rounds)
    return encoder, _median(lambda: autoencoder.decode(latents, 2 * QUALITY), codec.device, rounds)


def _files(codec: Codec, side: int, rounds: int) -> tuple[float, float, int]:
    """Return milliseconds of encoding and decoding a file, and its bytes."""
    noise = np.random.default_rng(0).integers(0, 256, (side // 16, side // 16, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC)
    data = codec.encode(image, quality=QUALITY).data
    encode = _median(lambda: codec.encode(image, quality=QUALITY), codec.device, rounds)
    return encode, _median(lambda: codec.decode(data), codec.device, rounds), len(data)


def _median(task: Callable[[], object], device: torch.device, rounds: int) -> float:
    times = []
    for _ in range(rounds + WARM_UP):
        _synchronise(device)
        start = time.perf_counter()
        task()
        _synchronise(device)
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[WARM_UP:])


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
