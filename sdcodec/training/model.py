"""Model in training: encoder, gains, differentiable prior, decoder."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sdcodec.autoencoders.conv import ConvConfig, ConvDecoder, ConvEncoder, Realism, realism_bias
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
            for name, shape in autoencoder.realism_shapes.items():
                self.register_parameter(name, nn.Parameter(torch.zeros(shape)))

    def realism_biases(self, realism: Tensor | None) -> Realism | None:
        """Return the biases of the decoder's blocks for realisms `[B]`, 0..1.

        None if the decoder has none.
        """
        if not self.autoencoder.realism:
            return None
        assert realism is not None
        return realism_bias(self.realism_8, realism), realism_bias(self.realism_4, realism)

    def scaled_latents(self, images: Tensor, quality: Tensor) -> Tensor:
        """Return latents in quantiser steps, not rounded, `[B, C, H/8, W/8]`."""
        latents: Tensor = self.encoder(images).float()
        return latents * self.gain(quality).exp()[:, :, None, None]

    def forward(self, images: Tensor, quality: Tensor, realism: Tensor | None = None) -> Reconstruction:
        """Encode, quantise and decode images `[B, 3, H, W]` in [0, 1].

        H and W are multiples of 32; `quality` and `realism` are `[B]`. Without a realism, a decoder that can be told
        one decodes as faithfully as it can.
        """
        coded = self.coded(images, quality)
        if realism is None:
            realism = torch.zeros_like(quality)
        latents = self.unscaled(coded.decoded, quality)
        return Reconstruction(self.decoder(latents, self.decoder_bias(quality), self.realism_biases(realism)), coded)

    def coded(self, images: Tensor, quality: Tensor) -> Coded:
        """Encode and quantise images; see `forward`."""
        scaled = self.scaled_latents(images, quality)
        with torch.autocast(images.device.type, enabled=False):  # its rates need float32
            coded: Coded = self.prior(scaled, quality)
        return coded

    def unscaled(self, decoded: Tensor, quality: Tensor) -> Tensor:
        """Return the decoder's latents for latents in quantiser steps, `[B, C, h, w]`."""
        return decoded * self.inverse_gain(quality).exp()[:, :, None, None]
