"""Start a model as a transform codec.

The linear paths are the Karhunen–Loève transform of 8×8×3 pixels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sdcodec.autoencoders.conv import DIRECT_UNIT, FACTOR, PIXELS
from sdcodec.constants import SCALE_MIN, SCALE_RATIO
from sdcodec.training.model import TrainingModel, beta_of
from sdcodec.training.objective import ERROR_UNIT

LEVELS = 127.5  # of 8 bits, in a difference of 1 of pixels in [-1, 1]
NETWORK_SHARE = 0.01  # of their initial weights that the last layers of the networks keep
SMALLEST_VARIANCE = 1e-8  # of a latent, in pixels in [-1, 1]
PERCEPTUAL_FACTOR = 2.0  # of the distortion at equal squared error, with LPIPS and structure in the loss
CONTEXT_DEVIATION = 2.0  # of a latent, in activations that the prior sees
PREDICTED_SHARE = 0.7  # of a latent's deviation that the prior expects at first


@torch.no_grad()
def start_as_transform(model: TrainingModel, crops: Tensor) -> None:
    """Set linear paths and gains, so that the untrained model is a codec.

    The linear paths become the principal components of `crops` `[N, 3, H, W]`, uint8, in squares of 8×8 pixels (at least
    192 of them); each latent has variance 1. The networks begin with next to nothing. Gains are those of high-rate
    theory: the quantiser step Δ at which the derivatives of rate and distortion by Δ balance, with
    MSE = C/192 · Δ²/12 and -C/64 · log₂ Δ bits per pixel for C latents.
    """
    squares = torch.cat([_squares(part) for part in crops.split(64)])
    mean = squares.mean(0)
    variances, components = torch.linalg.eigh((squares - mean).T @ (squares - mean) / len(squares))
    channels = model.autoencoder.latent_channels
    deviations = variances.flip(0)[:channels].clamp(min=SMALLEST_VARIANCE).sqrt()
    analysis = (components.flip(1)[:, :channels] / deviations).T  # [C, 192]
    synthesis = components.flip(1)[:, :channels] * deviations  # [192, C]

    # The last layer's bias serves squares of 2x2 pixels: of the mean, it can hold that of each colour.
    colours = mean.view(3, -1).mean(1)
    encoder, decoder = model.encoder, model.decoder
    encoder.direct.weight.copy_(analysis[:, :, None, None])
    encoder.exit.weight.mul_(NETWORK_SHARE)
    encoder.exit.bias.copy_(-(analysis @ colours.repeat_interleave(FACTOR**2)))
    decoder.direct.weight.copy_(synthesis[:, :, None, None] / DIRECT_UNIT)
    decoder.exit.weight.mul_(NETWORK_SHARE)
    decoder.exit.bias.copy_(colours.repeat_interleave(4))

    places = torch.linspace(0, 100, model.gain.values.shape[0], device=deviations.device)
    beta = PERCEPTUAL_FACTOR * beta_of(places).double()
    steps = torch.sqrt(12 * PIXELS * ERROR_UNIT / (2 * FACTOR**2 * math.log(2) * beta))
    gain = LEVELS * deviations / steps[:, None]  # [knots, C]
    model.gain.values.copy_(gain.log())
    model.inverse_gain.values.copy_(-gain.log())
    prior = model.prior
    prior.context_gain.values.copy_(math.log(CONTEXT_DEVIATION) - gain.log())
    prior.mean_gain.values.copy_(gain.log() - math.log(CONTEXT_DEVIATION))
    expected = (PREDICTED_SHARE * gain).clamp(min=SCALE_MIN / 2)
    prior.scale_base.values.copy_((expected / SCALE_MIN).log() / SCALE_RATIO)


def _squares(crops: Tensor) -> Tensor:
    """Return the squares of 8×8 pixels of uint8 crops, in [-1, 1], `[M, 192]` float64."""
    pixels = 2 * crops.double() / 255 - 1
    return F.pixel_unshuffle(pixels, FACTOR).permute(0, 2, 3, 1).reshape(-1, PIXELS)
