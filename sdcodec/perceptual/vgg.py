"""Convolutions of VGG-16 from a file or torchvision's cache.

They have 59 MB and do not ship with the package.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sdcodec.errors import OptionError
from sdcodec.perceptual.trunks import VGG16

TORCHVISION_FILE = "vgg16-397923af.pth"
# Positions of the convolutions in torchvision's `features`, which counts ReLUs and pools too.
POSITIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)


def find_vgg16() -> Path | None:
    """Return torchvision's file in PyTorch's cache, or None."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / TORCHVISION_FILE
    return path if path.is_file() else None


def read_vgg16(path: Path) -> dict[str, Tensor]:
    """Read the thirteen convolutions of VGG-16, float32.

    Their names become `features.0.weight` to `features.12.bias`.

    path: safetensors, or a file of torchvision's (tensors only: PyTorch's restricted reader runs no code), with
        torchvision's names `features.0.weight` to `features.28.bias`; other tensors in it are ignored.

    Raises OptionError for other files.
    """
    try:
        tensors = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
        chosen = {
            f"features.{own}.{part}": tensors[f"features.{theirs}.{part}"].float()
            for own, theirs in enumerate(POSITIONS)
            for part in ("weight", "bias")
        }
    except (
        SafetensorError,
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:
        raise OptionError(
            f"{path}: not VGG-16's weights (safetensors, or torchvision's {TORCHVISION_FILE}); get the file again"
        ) from error
    except OSError as error:
        raise OptionError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
    channels = 3
    for own, layer in enumerate(VGG16):
        if tuple(chosen[f"features.{own}.weight"].shape) != (layer.width, channels, 3, 3):
            raise OptionError(f"{path}: not VGG-16 (another one of the VGG family, perhaps); get {TORCHVISION_FILE}")
        channels = layer.width
    return chosen
