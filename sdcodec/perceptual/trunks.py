"""Shapes of the ImageNet networks that perceptual distances use."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """A convolution and its ReLU.

    `pool_before`: kernel and stride of a max-pool in front of it; `compared`: LPIPS compares its activation.
    """

    width: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    pool_before: tuple[int, int] | None = None
    compared: bool = True


# Krizhevsky 2014 ("One weird trick"), as in torchvision.
ALEXNET = (
    Layer(64, 11, 4, 2),
    Layer(192, 5, 1, 2, pool_before=(3, 2)),
    Layer(384, pool_before=(3, 2)),
    Layer(256),
    Layer(256),
)


def _vgg_stage(width: int, convolutions: int, pool_before: tuple[int, int] | None) -> tuple[Layer, ...]:
    return tuple(
        Layer(width, pool_before=pool_before if i == 0 else None, compared=i == convolutions - 1)
        for i in range(convolutions)
    )


# Configuration D of Simonyan and Zisserman 2015: relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3 are compared.
VGG16 = (
    *_vgg_stage(64, 2, None),
    *_vgg_stage(128, 2, (2, 2)),
    *_vgg_stage(256, 3, (2, 2)),
    *_vgg_stage(512, 3, (2, 2)),
    *_vgg_stage(512, 3, (2, 2)),
)
