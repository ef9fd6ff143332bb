"""Autoencoder of the embedded model, with its weights on a device."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from sdcodec.autoencoders.conv import (
    FACTOR,
    REDUCED_SCALES,
    ConvConfig,
    ConvDecoder,
    ConvEncoder,
    PreciseConv2d,
    between,
    receptive_margin,
)
from sdcodec.constants import QUALITY_LEVELS
from sdcodec.shapes import check_shapes


class ConvAutoencoder:
    """Encoder and decoder, ready to run in the chosen precision.

    The last layers and the linear paths compute in float32. `realism` is the one that it decodes with, 0..1, or None
    if there is no vivid decoder. Reduced images are always the faithful decoder's.
    """

    factor = FACTOR
    refinement_reach = 0.1
    refinement_lpips = 8.0

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
        self.vivid = ConvDecoder(replace(config, reduced=0)).float() if config.realism else None
        parts: dict[str, nn.Module] = {"encoder": self.encoder, "decoder": self.decoder}
        if self.vivid is not None:
            parts["vivid"] = self.vivid
        shapes = {
            f"{part}.{name}": tuple(value.shape)
            for part, module in parts.items()
            for name, value in module.state_dict().items()
        }
        shapes["decoder_bias"] = QUALITY_LEVELS, config.decoder_width_8
        check_shapes("autoencoder", shapes, tensors)
        self.quality_bias = tensors["decoder_bias"].to(device).float()
        self.realism: float | None = 0.0 if config.realism else None
        self.scales: tuple[int, ...] = REDUCED_SCALES if config.reduced else ()
        for part, module in parts.items():
            module.load_state_dict({name: tensors[f"{part}.{name}"] for name in module.state_dict()})
            module.requires_grad_(False).eval().to(device, dtype, memory_format=torch.channels_last)
            for layer in module.modules():
                if isinstance(layer, PreciseConv2d):
                    layer.float()
        self._shown = self.decoder

    def with_realism(self, realism: float) -> ConvAutoencoder:
        """Return the same networks, decoding with another realism, 0..1.

        Only for one whose `realism` is not None.
        """
        assert self.vivid is not None
        other = copy.copy(self)
        other.realism = float(realism)
        if realism in (0, 1):
            other._shown = self.vivid if realism else self.decoder
            return other
        other._shown = copy.deepcopy(self.vivid)
        other._shown.load_state_dict(between(self.decoder, self.vivid, realism))
        return other

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
            return self._shown(*self._entering(latents, quality_index)).clamp(0, 1)

    @torch.no_grad()
    def decode_reduced(self, latents: Tensor, quality_index: int, scale: int) -> Tensor:
        """Decode to 1/`scale` of the size, one of `scales`.

        Returns float32 `[B, 3, 8h/scale, 8w/scale]` in [0, 1].
        """
        with torch.autocast(self.device.type, enabled=False):
            return self.decoder.reduced(*self._entering(latents, quality_index), scale).clamp(0, 1)

    def _entering(self, latents: Tensor, quality_index: int) -> tuple[Tensor, Tensor]:
        """Return latents and bias as the decoder takes them."""
        bias = self.quality_bias[quality_index].expand(latents.shape[0], -1)
        return latents.to(self.device, memory_format=torch.channels_last), bias
