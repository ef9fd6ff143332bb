"""LPIPS v0.1 with AlexNet, whose trunk ships, or VGG-16 from a file.

It needs neither the network nor torchvision.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import as_file, files

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from sdcodec.perceptual.trunks import ALEXNET, VGG16

TRUNKS = {"alex": ALEXNET, "vgg": VGG16}


class LPIPS(nn.Module):
    """Learned perceptual image patch similarity 0.1 (Zhang et al., CVPR 2018).

    The trunk's five activations are normalised over channels, their squared differences weighted per channel, and the
    spatial means added up. Inputs are float images `[B, 3, H, W]` in [0, 1], H and W at least 31 (VGG: 16).
    """

    def __init__(self, network: str = "alex", trunk: Mapping[str, Tensor] | None = None) -> None:
        """Load trunk and calibration.

        network: "alex", which most papers report, and whose trunk ships; or "vgg".
        trunk: VGG's convolutions, as `sdcodec.perceptual.vgg.read_vgg16` returns them.
        """
        super().__init__()
        self.layers = TRUNKS[network]
        channels = 3
        self.features = nn.ModuleList()
        for layer in self.layers:
            self.features.append(nn.Conv2d(channels, layer.width, layer.kernel, layer.stride, layer.padding))
            channels = layer.width
        compared = [layer.width for layer in self.layers if layer.compared]
        self.calibration = nn.ParameterList([nn.Parameter(torch.zeros(width)) for width in compared])
        # LPIPS scales [-1, 1] inputs with these; written for [0, 1] inputs: (2x - 1 - shift) / scale.
        self.register_buffer(
            "shift", torch.tensor([-0.030, -0.088, -0.188], dtype=torch.float32).view(1, 3, 1, 1), persistent=False
        )
        self.register_buffer(
            "scale", torch.tensor([0.458, 0.448, 0.450], dtype=torch.float32).view(1, 3, 1, 1), persistent=False
        )
        self.float()  # whatever the default dtype is: weights are copied into it
        with as_file(files(__package__) / f"lpips_{network}.safetensors") as path:
            self.load_state_dict({**load_file(path), **(trunk or {})})
        self.requires_grad_(False).eval()

    def activations(self, images: Tensor) -> list[Tensor]:
        """Return the five post-ReLU activations, `[B, C_i, H_i, W_i]`.

        Each has unit length over channels.
        """
        x = (2 * images - 1 - self.shift) / self.scale
        found = []
        for conv, layer in zip(self.features, self.layers, strict=True):
            if layer.pool_before:
                x = F.max_pool2d(x, *layer.pool_before)
            x = F.relu(conv(x))
            if layer.compared:
                whole = x.float()  # compared in float32, also under autocast
                found.append(whole / (whole.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return found

    def distance(self, images: Tensor, references: Tensor | list[Tensor]) -> Tensor:
        """Return LPIPS of each pair, `[B]`.

        `references` are images, or their `activations` if they serve more than once.
        """
        if isinstance(references, Tensor):
            references = self.activations(references)
        total = images.new_zeros(images.shape[0], dtype=torch.float32)
        for ours, theirs, weight in zip(self.activations(images), references, self.calibration, strict=True):
            squared = (ours - theirs).square()
            with torch.autocast(squared.device.type, enabled=False):
                weighted = torch.einsum("bchw,c->b", squared, weight.float())
            total = total + weighted / (squared.shape[2] * squared.shape[3])
        return total

    forward = distance
