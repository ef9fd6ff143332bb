"""LPIPS v0.1 with an AlexNet trunk, from weights that ship with the package: works offline and without torchvision."""

from __future__ import annotations

from importlib.resources import as_file, files

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

# (out channels, kernel, stride, padding, max-pool before) of AlexNet's convolutions (Krizhevsky 2014, as in torchvision).
_LAYERS = (
    (64, 11, 4, 2, False),
    (192, 5, 1, 2, True),
    (384, 3, 1, 1, True),
    (256, 3, 1, 1, False),
    (256, 3, 1, 1, False),
)


class LPIPS(nn.Module):
    """Learned perceptual image patch similarity (Zhang et al., CVPR 2018), version 0.1, AlexNet.

    The trunk's five activations are normalised over channels, their squared differences weighted per channel, and the
    spatial means added up. Inputs are float images `[B, 3, H, W]` in [0, 1], H and W at least 31.
    """

    def __init__(self) -> None:
        super().__init__()
        channels = 3
        self.features = nn.ModuleList()
        for width, kernel, stride, padding, _ in _LAYERS:
            self.features.append(nn.Conv2d(channels, width, kernel, stride, padding))
            channels = width
        self.calibration = nn.ParameterList([nn.Parameter(torch.zeros(width)) for width, *_ in _LAYERS])
        # LPIPS scales [-1, 1] inputs with these; written for [0, 1] inputs: (2x - 1 - shift) / scale.
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1), persistent=False)
        with as_file(files(__package__) / "lpips_alex.safetensors") as path:
            self.load_state_dict(load_file(path))
        self.requires_grad_(False).eval()

    def activations(self, images: Tensor) -> list[Tensor]:
        """The five post-ReLU activations, each of unit length over channels; `[B, C_i, H_i, W_i]`."""
        x = (2 * images - 1 - self.shift) / self.scale
        found = []
        for conv, (*_, pooled) in zip(self.features, _LAYERS, strict=True):
            if pooled:
                x = F.max_pool2d(x, 3, 2)
            x = F.relu(conv(x))
            found.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return found

    def distance(self, images: Tensor, references: Tensor | list[Tensor]) -> Tensor:
        """LPIPS of each pair, `[B]`; `references` are images, or their `activations` where they serve more than once."""
        if isinstance(references, Tensor):
            references = self.activations(references)
        total = images.new_zeros(images.shape[0], dtype=torch.float32)
        for ours, theirs, weight in zip(self.activations(images), references, self.calibration, strict=True):
            squared = (ours - theirs).square().float()
            total = total + torch.einsum("bchw,c->b", squared, weight.float()) / (squared.shape[2] * squared.shape[3])
        return total

    forward = distance
