"""Convolutional autoencoder of the embedded model: one network for all rates.

It has neither normalisation nor attention, so its receptive field is finite.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdcodec.constants import QUALITY_LEVELS
from sdcodec.shapes import check_shapes

FACTOR = 8  # pixels per latent, along a side
PIXELS = 3 * FACTOR**2  # samples of the 8x8 pixels of a latent
DIRECT_UNIT = 1 / 16  # unit of the linear path's output, in -1..1: its weights become as large as others


@dataclass(frozen=True)
class ConvConfig:
    """Widths and numbers of residual blocks at 1/2, 1/4 and 1/8 of the image's size.

    The defaults are those of `base`.
    """

    latent_channels: int = 64
    encoder_width_4: int = 64
    encoder_blocks_4: int = 1
    encoder_width_8: int = 128
    encoder_blocks_8: int = 6
    decoder_width_8: int = 160
    decoder_blocks_8: int = 10
    decoder_width_4: int = 64
    decoder_blocks_4: int = 3
    decoder_width_2: int = 24


def _cast(x: Tensor, layer: nn.Conv2d) -> Tensor:
    """Cast to the precision of a layer's weights.

    In training these are float32, and autocast chooses.
    """
    return x if layer.weight.dtype == torch.float32 else x.to(layer.weight.dtype)


class PreciseConv2d(nn.Conv2d):
    """Convolution in the precision of its weights, also under autocast.

    Latents and pixels need more digits than bfloat16 has; the first and last layers are thin.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.to(self.weight.dtype))


class ResidualBlock(nn.Module):
    """x + conv(SiLU(conv(SiLU(x)))), 3x3."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        with torch.no_grad():
            self.second.weight.mul_(0.2)

    def forward(self, x: Tensor) -> Tensor:
        """Add the residual."""
        return x + self.second(F.silu(self.first(_cast(F.silu(x), self.first))))


def _blocks(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*[ResidualBlock(width) for _ in range(count)])


class ConvEncoder(nn.Module):
    """Images `[B, 3, H, W]` in [0, 1] → latents `[B, C, H/8, W/8]`."""

    def __init__(self, config: ConvConfig) -> None:
        super().__init__()
        narrow, wide = config.encoder_width_4, config.encoder_width_8
        self.entry = PreciseConv2d(48, narrow, 3, padding=1)
        self.blocks_4 = _blocks(narrow, config.encoder_blocks_4)
        self.down = nn.Conv2d(narrow, wide, 4, stride=2, padding=1)
        self.blocks_8 = _blocks(wide, config.encoder_blocks_8)
        self.exit = PreciseConv2d(wide, config.latent_channels, 3, padding=1)
        self.direct = PreciseConv2d(PIXELS, config.latent_channels, 1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Encode."""
        images = 2 * images - 1
        # Residual streams stay in float32: sums in bfloat16 cost half a hundredth of LPIPS.
        x = self.entry(F.pixel_unshuffle(images, 4)).float()
        x = self.down(_cast(F.silu(self.blocks_4(x)), self.down)).float()
        return self.exit(self.blocks_8(x)) + self.direct(F.pixel_unshuffle(images, FACTOR))


class ConvDecoder(nn.Module):
    """Latents `[B, C, h, w]` and a bias for the quality → images `[B, 3, 8h, 8w]`.

    The images are not clamped.
    """

    def __init__(self, config: ConvConfig) -> None:
        super().__init__()
        wide, middle, thin = config.decoder_width_8, config.decoder_width_4, config.decoder_width_2
        self.entry = PreciseConv2d(config.latent_channels, wide, 3, padding=1)
        self.blocks_8 = _blocks(wide, config.decoder_blocks_8)
        self.up_4 = nn.Conv2d(wide, 4 * middle, 1)
        self.blocks_4 = _blocks(middle, config.decoder_blocks_4)
        self.up_2 = nn.Conv2d(middle, 4 * thin, 3, padding=1)
        self.exit = PreciseConv2d(thin, 12, 3, padding=1)
        self.direct = PreciseConv2d(config.latent_channels, PIXELS, 1, bias=False)

    def forward(self, latents: Tensor, quality_bias: Tensor) -> Tensor:
        """Decode; `quality_bias` `[B, decoder_width_8]` tells the network the rate."""
        x = self.entry(latents).float() + quality_bias[:, :, None, None]
        x = F.pixel_shuffle(self.up_4(_cast(F.silu(self.blocks_8(x)), self.up_4)), 2).float()
        x = F.pixel_shuffle(self.up_2(_cast(F.silu(self.blocks_4(x)), self.up_2)), 2).float()
        images = F.pixel_shuffle(self.exit(F.silu(x)), 2)
        images = images + DIRECT_UNIT * F.pixel_shuffle(self.direct(latents), FACTOR)
        return images * 0.5 + 0.5


class ConvAutoencoder:
    """Encoder and decoder, ready to run in the chosen precision.

    The last layers and the linear paths compute in float32.
    """

    factor = FACTOR
    refinement_reach = 0.1
    refinement_lpips = 8.0
    quick_to_refine = True

    def __init__(
        self, config: ConvConfig, tensors: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype
    ) -> None:
        """Build the networks; `tensors` as `sdcodec.training.export` names them.

        Raises BundleError if they do not fit `config`.
        """
        self.channels = config.latent_channels
        self.margin: int | None = receptive_margin(config)
        self.device, self.dtype = device, dtype
        # float32, whatever the default dtype is: weights are copied into it.
        self.encoder, self.decoder = ConvEncoder(config).float(), ConvDecoder(config).float()
        parts = {"encoder": self.encoder, "decoder": self.decoder}
        shapes = {
            f"{part}.{name}": tuple(value.shape)
            for part, module in parts.items()
            for name, value in module.state_dict().items()
        }
        check_shapes("autoencoder", shapes | {"decoder_bias": (QUALITY_LEVELS, config.decoder_width_8)}, tensors)
        self.quality_bias = tensors["decoder_bias"].to(device).float()
        for part, module in parts.items():
            module.load_state_dict({name: tensors[f"{part}.{name}"] for name in module.state_dict()})
            module.requires_grad_(False).eval().to(device, dtype, memory_format=torch.channels_last)
            # Latents and pixels need more digits than bfloat16 has; these layers are small.
            module.exit.float()
            module.direct.float()

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Encode `[B, 3, H, W]` in [0, 1], sides multiples of 8.

        Returns float32 `[B, C, H/8, W/8]`.
        """
        with torch.autocast(self.device.type, enabled=False):
            return self.encoder(images.to(self.device, torch.float32, memory_format=torch.channels_last))

    @torch.no_grad()
    def decode(self, latents: Tensor, quality_index: int) -> Tensor:
        """Decode float32 `[B, C, h, w]` to float32 `[B, 3, 8h, 8w]` in [0, 1]."""
        return self.decode_with_gradient(latents, quality_index)

    def decode_with_gradient(self, latents: Tensor, quality_index: int) -> Tensor:
        """Decode as `decode`, differentiable in the latents."""
        with torch.autocast(self.device.type, enabled=False):
            bias = self.quality_bias[quality_index].expand(latents.shape[0], -1)
            x = latents.to(self.device, memory_format=torch.channels_last)
            return self.decoder(x, bias).clamp(0, 1)


def receptive_margin(config: ConvConfig) -> int:
    """Return the reach of the networks' receptive fields, in latents."""
    encoder = (1 + 2 * config.encoder_blocks_4) / 2 + 1 + 2 * config.encoder_blocks_8 + 1
    decoder = 1 + 2 * config.decoder_blocks_8 + (2 * config.decoder_blocks_4 + 1) / 2 + 1 / 4
    return math.ceil(max(encoder, decoder))
