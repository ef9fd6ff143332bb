"""Autoencoder of the embedded model, with its weights on a device."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from sdcodec.autoencoders.conv import (
    FACTOR,
    REDUCED_SCALES,
    ConvConfig,
    ConvDecoder,
    ConvEncoder,
    PreciseConv2d,
    Realism,
    realism_bias,
    receptive_margin,
)
from sdcodec.constants import QUALITY_LEVELS
from sdcodec.shapes import check_shapes


class ConvAutoencoder:
    """Encoder and decoder, ready to run in the chosen precision.

    The last layers and the linear paths compute in float32. `realism` is the one that it decodes with, 0..1, or None
    if the decoder has no biases for it.
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
        tables = config.realism_shapes if config.realism else {}
        biases = {"decoder_bias": (QUALITY_LEVELS, config.decoder_width_8)} | tables
        check_shapes("autoencoder", shapes | biases, tensors)
        self.quality_bias = tensors["decoder_bias"].to(device).float()
        self.realism: float | None = 0.0 if config.realism else None
        self.scales: tuple[int, ...] = REDUCED_SCALES if config.reduced else ()
        self._tables = [tensors[name].to(device).float() for name in tables]
        for part, module in parts.items():
            module.load_state_dict({name: tensors[f"{part}.{name}"] for name in module.state_dict()})
            module.requires_grad_(False).eval().to(device, dtype, memory_format=torch.channels_last)
            for layer in module.modules():
                if isinstance(layer, PreciseConv2d):
                    layer.float()

    def with_realism(self, realism: float) -> ConvAutoencoder:
        """Return the same networks, decoding with another realism, 0..1.

        Only for one whose `realism` is not None.
        """
        other = copy.copy(self)
        other.realism = float(realism)
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
            return self.decoder(*self._entering(latents, quality_index), self._biases(len(latents))).clamp(0, 1)

    @torch.no_grad()
    def decode_reduced(self, latents: Tensor, quality_index: int, scale: int) -> Tensor:
        """Decode to 1/`scale` of the size, one of `scales`.

        Returns float32 `[B, 3, 8h/scale, 8w/scale]` in [0, 1].
        """
        with torch.autocast(self.device.type, enabled=False):
            entering = self._entering(latents, quality_index)
            return self.decoder.reduced(*entering, scale, self._biases(len(latents))).clamp(0, 1)

    def _entering(self, latents: Tensor, quality_index: int) -> tuple[Tensor, Tensor]:
        """Return latents and bias as the decoder takes them."""
        bias = self.quality_bias[quality_index].expand(latents.shape[0], -1)
        return latents.to(self.device, memory_format=torch.channels_last), bias

    def _biases(self, batch: int) -> Realism | None:
        """Return the biases for realism."""
        if self.realism is None:
            return None
        realism = torch.full((batch,), self.realism, device=self.device)
        at_8, at_4 = (realism_bias(table, realism) for table in self._tables)
        return at_8, at_4
