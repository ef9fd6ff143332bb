"""DISTS over VGG-16: structure and texture similarity, with published weights."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import as_file, files

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from sdcodec.perceptual.trunks import VGG16

STABILITY = 1e-6  # c1 and c2 of the paper


class DISTS(nn.Module):
    """Deep image structure and texture similarity (Ding et al., TPAMI 2020).

    0 for equal images; larger is worse. The image and five activations of VGG-16 are compared by their means
    (texture) and correlations (structure), per channel, with learned weights. Inputs are float images `[B, 3, H, W]`
    in [0, 1], H and W at least 16; as in the published figures of codecs they are not scaled to 256 pixels first.
    """

    def __init__(self, trunk: Mapping[str, Tensor]) -> None:
        """Load the weights; `trunk` has VGG's convolutions, as `read_vgg16` returns them."""
        super().__init__()
        for name, value in trunk.items():
            self.register_buffer(name.replace(".", "_"), value, persistent=False)
        with as_file(files(__package__) / "dists.safetensors") as path:
            weights = load_file(path)
        total = weights["alpha"].sum() + weights["beta"].sum()
        self.widths = [3, *(layer.width for layer in VGG16 if layer.compared)]
        self.register_buffer("alpha", weights["alpha"] / total, persistent=False)
        self.register_buffer("beta", weights["beta"] / total, persistent=False)
        self.register_buffer(
            "mean", torch.tensor([0.485, 0.456, 0.406], dtype=torch.float32).view(1, 3, 1, 1), persistent=False
        )
        self.register_buffer(
            "deviation", torch.tensor([0.229, 0.224, 0.225], dtype=torch.float32).view(1, 3, 1, 1), persistent=False
        )

    def distance(self, images: Tensor, references: Tensor | list[Tensor]) -> Tensor:
        """Return DISTS of each pair, `[B]`.

        `references` are images, or their `activations` if they serve more than once.
        """
        if isinstance(references, Tensor):
            references = self.activations(references)
        similarity = images.new_zeros(images.shape[0])
        pairs = zip(
            self.activations(images),
            references,
            self.alpha.split(self.widths),
            self.beta.split(self.widths),
            strict=True,
        )
        for x, y, alpha, beta in pairs:
            x_mean, y_mean = x.mean((2, 3)), y.mean((2, 3))
            x_variance, y_variance = x.var((2, 3), correction=0), y.var((2, 3), correction=0)
            covariance = (x * y).mean((2, 3)) - x_mean * y_mean
            texture = (2 * x_mean * y_mean + STABILITY) / (x_mean**2 + y_mean**2 + STABILITY)
            structure = (2 * covariance + STABILITY) / (x_variance + y_variance + STABILITY)
            similarity = similarity + (alpha * texture + beta * structure).sum(1)
        return 1 - similarity

    forward = distance

    def activations(self, images: Tensor) -> list[Tensor]:
        """Return the image and VGG's last activations before each pooling.

        They are `[B, C_i, H_i, W_i]`.
        """
        x, found = (images - self.mean) / self.deviation, [images]
        for i, layer in enumerate(VGG16):
            if layer.pool_before:
                x = _l2_pooled(x)
            weight, bias = getattr(self, f"features_{i}_weight"), getattr(self, f"features_{i}_bias")
            x = F.relu(F.conv2d(x, weight, bias, padding=layer.padding))
            if layer.compared:
                found.append(x.float())  # compared in float32, also under autocast
        return found


def _l2_pooled(x: Tensor) -> Tensor:
    """Halve the size by the root of a weighted mean of squares.

    Henaff and Simoncelli, 2016.
    """
    # Averages of two, twice: weights of 1/4, 1/2 and 1/4 along each side, by kernels that are quicker than convolutions.
    # The pooling pads itself: compiling a padded tensor and its gradient fails in PyTorch 2.13.
    x = F.avg_pool2d(x.square(), 2, stride=1, padding=1)
    return (F.avg_pool2d(x, 2, stride=2) + 1e-12).sqrt()
