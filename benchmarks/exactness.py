"""Check that symbols are the same in all circumstances, each in a fresh process.

    python benchmarks/exactness.py FILE.sdc...

Threads, oneDNN on and off, two levels of instruction sets, batches of 1, 8 and 16, inside and outside autocast,
float32 and bfloat16 as default precision. It prints a line for each, and the difference of pixels of bfloat16 and
float32 decoding.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

CHILD = """
import contextlib, json, sys
import numpy as np, torch
import sdcodec
from sdcodec import grid
options = json.loads(sys.argv[1])
torch.set_num_threads(options.get("threads", 2))
torch.set_default_dtype(getattr(torch, options.get("default", "float32")))
if not options.get("onednn", True):
    torch.backends.mkldnn.enabled = False
autocast = torch.autocast("cpu", torch.bfloat16) if options.get("autocast") else contextlib.nullcontext()
digests = []
with autocast:
    for name in options["files"]:
        data = open(name, "rb").read()
        codec = sdcodec.Codec.for_file(data, device="cpu", precision=options.get("precision", "auto"))
        batch = options.get("batch", 1)
        many = grid.decode(codec._model, [codec._parsed(data, 2**28)] * batch)
        assert all(np.array_equal(many[0], other) for other in many)
        codec.decode_batch([data] * batch)
        digests.append(codec.symbols_sha256(data))
print(json.dumps(digests))
"""

CASES: list[tuple[str, dict[str, object], dict[str, str]]] = [
    ("1 thread", {"threads": 1}, {}),
    ("2 threads", {"threads": 2}, {}),
    ("oneDNN off", {"onednn": False}, {}),
    ("oneDNN up to AVX2", {}, {"ONEDNN_MAX_CPU_ISA": "AVX2"}),
    ("oneDNN up to AVX-512", {}, {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}),
    ("oneDNN with everything", {}, {"ONEDNN_MAX_CPU_ISA": "ALL"}),
    ("PyTorch without AVX", {}, {"ATEN_CPU_CAPABILITY": "default"}),
    ("MKL up to AVX2", {}, {"MKL_ENABLE_INSTRUCTIONS": "AVX2"}),
    ("batch of 8", {"batch": 8}, {}),
    ("batch of 16", {"batch": 16}, {}),
    ("inside autocast", {"autocast": True}, {}),
    ("bfloat16 by default", {"default": "bfloat16"}, {}),
    ("float32 decoder", {"precision": "float32"}, {}),
    ("bfloat16 decoder", {"precision": "bfloat16"}, {}),
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    files = [str(path.resolve()) for path in parser.parse_args().files]
    expected: list[str] | None = None
    failed = False
    for name, options, environment in CASES:
        arguments = [sys.executable, "-c", CHILD, json.dumps(options | {"files": files})]
        found = json.loads(
            subprocess.run(arguments, env=os.environ | environment, check=True, capture_output=True).stdout
        )
        expected = expected or found
        failed |= found != expected
        print(f"{name:26} {'same' if found == expected else 'DIFFERENT'}", flush=True)
    _compare_pixels(files)
    return int(failed)


def _compare_pixels(files: list[str]) -> None:
    import numpy as np

    import sdcodec

    largest, total = 0, []
    for name in files:
        data = Path(name).read_bytes()
        images = [
            np.asarray(sdcodec.decode(data, device="cpu", precision=precision).convert("RGB")).astype(int)
            for precision in ("float32", "bfloat16")
        ]
        difference = np.abs(images[0] - images[1])
        largest = max(largest, int(difference.max()))
        total.append(difference.mean())
    print(f"pixels, bfloat16 against float32: largest difference {largest}, mean {np.mean(total):.3f} of 255")


if __name__ == "__main__":
    sys.exit(main())
