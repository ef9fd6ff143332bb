"""Environment of a run: options, inputs, versions and hardware."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import features

from sdcodec_eval.codecs.protocol import ImageCodec
from sdcodec_eval.pictures import Source
from sdcodec_eval.plan import Plan

PACKAGES = (
    "bjontegaard",
    "constriction",
    "matplotlib",
    "numpy",
    "pillow",
    "pillow-heif",
    "pillow-jxl-plugin",
    "pytorch-msssim",
    "scikit-image",
    "scipy",
    "sdcodec",
    "ssimulacra2",
    "torch",
)
LIBRARIES = ("libjpeg_turbo", "webp", "avif")


def describe(plan: Plan, codecs: Mapping[str, ImageCodec], sources: Sequence[Source], workers: int) -> dict[str, Any]:
    """Return the content of environment.json.

    The rows are determined by the options, the codecs' settings (with a model's fingerprint) and the images; the
    versions, hardware, commit and command document the run.
    """
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "options": plan.to_json(),
        "settings": {label: dict(codec.settings) for label, codec in codecs.items()},
        "images": {source.name: {"file": source.path.name, "sha256": _digest(source.path)} for source in sources},
        "workers": workers,
        "threads": torch.get_num_threads() if workers == 1 else threads_for(workers),
        **machine(),
    }


def machine() -> dict[str, Any]:
    """Return the versions of the software and the hardware."""
    return {
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "libraries": {name: features.version(name) for name in LIBRARIES if features.check(name)},
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def threads_for(workers: int) -> int:
    """Return the number of PyTorch's threads in each of `workers` processes."""
    return max(1, torch.get_num_threads() // workers)


def _digest(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None  # the rows of the image report the error


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Return the commit of the source, with `+` if modified; None without git."""
    here = str(Path(__file__).parent)
    try:
        said = [
            subprocess.run(["git", "-C", here, *command], capture_output=True, text=True, check=True, timeout=10).stdout
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return said[0].strip() + ("+" if said[1].strip() else "")


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
