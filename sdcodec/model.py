"""A model in memory: autoencoder, quantiser, prior and denoiser.

`sdcodec.bundles` reads it from disk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sdcodec.autoencoders.protocol import Autoencoder
from sdcodec.denoisers.protocol import Denoiser
from sdcodec.priors.protocol import Prior


@dataclass(frozen=True)
class Quantiser:
    """Gains per quality and channel, float32 `[201, C]`, and their inverses.

    Both are learned separately.
    """

    gain: Tensor
    inverse_gain: Tensor

    def scaled(self, latents: Tensor, quality_index: int) -> Tensor:
        """Scale latents `[..., C, h, w]` to units of the quantiser step."""
        return latents * self.gain[quality_index][:, None, None]

    def unscaled(self, scaled_latents: Tensor, quality_index: int) -> Tensor:
        """Return the decoder's latents for scaled latents `[..., C, h, w]`."""
        return scaled_latents * self.inverse_gain[quality_index][:, None, None]

    def dequantised(self, values: Tensor, quality_index: int, bits: int) -> Tensor:
        """Return the decoder's latents, float32 `[C, h, w]`, for integers.

        The integers count in 2**-bits of a quantiser step.
        """
        inverse_gain = self.inverse_gain[quality_index]
        return values.to(inverse_gain.device).float().mul_(inverse_gain[:, None, None] / (1 << bits))


@dataclass(frozen=True)
class Model:
    """The parts of a bundle.

    `load_denoiser` reads its UNet at the first call; None if the bundle has none.
    """

    autoencoder: Autoencoder
    quantiser: Quantiser
    prior: Prior
    load_denoiser: Callable[[], Denoiser] | None = None

    @property
    def measures_error(self) -> bool:
        """Whether files carry the measured deviation of the latents' error.

        Denoising starts from it.
        """
        return self.load_denoiser is not None

    @property
    def device(self) -> torch.device:
        """Device of the quantiser and the prior."""
        return self.quantiser.gain.device
