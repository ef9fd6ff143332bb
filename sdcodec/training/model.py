"""Model in training: encoder, gains, differentiable prior, decoder."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sdcodec.autoencoders.conv import ConvConfig, ConvDecoder, ConvEncoder, between
from sdcodec.priors.config import PriorConfig
from sdcodec.training.knots import Knots
from sdcodec.training.prior_network import Coded, PriorNetwork

BETA_LOWEST, BETA_HIGHEST = 0.03, 16.0
# The mean squared error of uniform quantisation falls with the square of the gain; measured optima of trained codecs
# grow a little slower than the square root of beta.
GAIN_SLOPE = 0.42 * math.log(BETA_HIGHEST / BETA_LOWEST)


def beta_of(quality: Tensor) -> Tensor:
    """Return the weight of the distortion for each quality in 0..100, log-linear."""
    low, high = math.log(BETA_LOWEST), math.log(BETA_HIGHEST)
    return torch.exp(low + (high - low) * quality.float() / 100)


@dataclass
class Reconstruction:
    """Result of a forward pass: images `[B, 3, H, W]`, not clamped, and coded latents."""

    images: Tensor
    coded: Coded


class TrainingModel(nn.Module):
    """Images and qualities to reconstructions and estimated bits."""

    def __init__(self, autoencoder: ConvConfig, prior: PriorConfig) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        channels = autoencoder.latent_channels
        self.encoder = ConvEncoder(autoencoder)
        self.decoder = ConvDecoder(autoencoder)
        self.prior = PriorNetwork(prior, GAIN_SLOPE)
        self.gain = Knots(channels, start=math.log(8.0), slope=GAIN_SLOPE)
        self.inverse_gain = Knots(channels, start=-math.log(8.0), slope=-GAIN_SLOPE)
        self.decoder_bias = Knots(autoencoder.decoder_width_8)
        if autoencoder.realism:
            self.vivid = ConvDecoder(replace(autoencoder, reduced=0))

    def scaled_latents(self, images: Tensor, quality: Tensor) -> Tensor:
        """Return latents in quantiser steps, not rounded, `[B, C, H/8, W/8]`."""
        latents: Tensor = self.encoder(images).float()
        return latents * self.gain(quality).exp()[:, :, None, None]

    def forward(self, images: Tensor, quality: Tensor, realism: float = 0.0) -> Reconstruction:
        """Encode, quantise and decode images `[B, 3, H, W]` in [0, 1].

        H and W are multiples of 32; `quality` is `[B]`; `realism` 0..1.
        """
        coded = self.coded(images, quality)
        return Reconstruction(self.decode(self.unscaled(coded.decoded, quality), quality, realism), coded)

    def decode(self, latents: Tensor, quality: Tensor, realism: float = 0.0) -> Tensor:
        """Decode latents `[B, C, h, w]` at qualities `[B]` to images, not clamped."""
        told = latents, self.decoder_bias(quality)
        images: Tensor
        if realism in (0, 1):
            images = (self.vivid if realism else self.decoder)(*told)
            return images
        images = functional_call(self.vivid, between(self.decoder, self.vivid, realism), told)
        return images

    def coded(self, images: Tensor, quality: Tensor) -> Coded:
        """Encode and quantise images; see `forward`."""
        scaled = self.scaled_latents(images, quality)
        with torch.autocast(images.device.type, enabled=False):  # its rates need float32
            coded: Coded = self.prior(scaled, quality)
        return coded

    def unscaled(self, decoded: Tensor, quality: Tensor) -> Tensor:
        """Return the decoder's latents for latents in quantiser steps, `[B, C, h, w]`."""
        return decoded * self.inverse_gain(quality).exp()[:, :, None, None]
