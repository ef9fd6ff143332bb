"""A small UNet for the latents of `tiny`: trained through its decoder on what its own quantiser leaves, no diffusers needed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdcodec.denoisers.error_levels import rounding_level
from sdcodec.denoisers.protocol import Denoiser
from sdcodec.denoisers.schedule import NoiseSchedule
from sdcodec.denoisers.windows import WindowedDenoiser
from sdcodec.errors import misfit

LEVELS_OF_SIGMA = 64  # how finely the schedule tells the quantiser's errors apart
FREQUENCIES = 8  # of the sigma's embedding: sine and cosine of log sigma, octaves apart


@dataclass(frozen=True)
class LatentUNetConfig:
    """Widths and residual blocks at 1, 1/2 and 1/4 of the latents' resolution; `window`: latents a side at once."""

    latent_channels: int = 32
    widths: tuple[int, ...] = (128, 192, 256)
    blocks: tuple[int, ...] = (1, 2, 2)
    embedding: int = 128
    window: int = 128


class ConditionedBlock(nn.Module):
    """x + conv(SiLU(conv(SiLU(x)) + what the noise level says)), 3x3; begins as nearly nothing."""

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.level = nn.Linear(embedding, width)
        with torch.no_grad():
            self.second.weight.mul_(0.2)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(x)) + self.level(level)[:, :, None, None]))


class LatentUNet(nn.Module):
    """Dequantised latents `[B, C, h, w]` and the deviation of their error → cleaner ones, likewise. Any size.

    The guess is x + sigma / sigma_middle · step_middle · F(x / step_middle, sigma), with the quantiser's steps at middle
    quality: F predicts the error in units of about a step, at every quality. F ends with zeros, so that training begins
    with the latents as they are (preconditioning as in Karras et al., 2022, with c_skip = 1).
    """

    step: Tensor

    def __init__(self, config: LatentUNetConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("step", torch.ones(config.latent_channels))
        wide, *_ = config.widths
        width = config.embedding
        self.embed = nn.Sequential(nn.Linear(2 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.entry = nn.Conv2d(config.latent_channels, wide, 3, padding=1)
        stages = list(zip(config.widths, config.blocks, strict=True))
        self.down_blocks = nn.ModuleList(_blocks(w, n, width) for w, n in stages[:-1])
        self.middle_blocks = _blocks(*stages[-1], width)
        self.up_blocks = nn.ModuleList(_blocks(w, n, width) for w, n in stages[:-1])
        pairs = list(zip(config.widths, config.widths[1:], strict=False))
        self.down = nn.ModuleList(nn.Conv2d(thin, thick, 2, stride=2) for thin, thick in pairs)
        self.up = nn.ModuleList(nn.ConvTranspose2d(thick, thin, 2, stride=2) for thin, thick in pairs)
        self.exit = nn.Conv2d(wide, config.latent_channels, 3, padding=1)
        nn.init.zeros_(self.exit.weight)
        nn.init.zeros_(self.exit.bias)

    def set_steps(self, inverse_gain: Tensor) -> None:
        """The quantiser's steps at middle quality, in the decoder's latents, `[C]`: what the network counts in."""
        self.step.copy_(inverse_gain)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """`x` float32; `sigma` `[B]`, above 0: root of the mean over channels of the error's variance."""
        height, width = x.shape[2:]
        multiple = 1 << len(self.down)
        step = self.step[:, None, None]
        relative = sigma / rounding_level(self.step)
        places = torch.exp2(torch.arange(FREQUENCIES, device=x.device) - 3.0)
        angles = torch.log(relative)[:, None] * places
        dtype = self.exit.weight.dtype
        level = self.embed(torch.cat([angles.sin(), angles.cos()], 1).to(dtype))
        h = F.pad(x / (4 * step), (0, -width % multiple, 0, -height % multiple), mode="replicate").to(dtype)
        h = self.entry(h)
        skipped = []
        for blocks, down in zip(self.down_blocks, self.down, strict=True):
            h = _through(blocks, h, level)
            skipped.append(h)
            h = down(h)
        h = _through(self.middle_blocks, h, level)
        for blocks, up, kept in zip(reversed(self.up_blocks), reversed(self.up), reversed(skipped), strict=True):
            h = _through(blocks, kept + up(h), level)
        error = self.exit(F.silu(h))[:, :, :height, :width].float()
        return x + relative[:, None, None, None] * step * error


class LatentUNetDenoiser:
    """The network as the sampler asks it. See Denoiser."""

    def __init__(self, network: LatentUNet, schedule: NoiseSchedule) -> None:
        self.network, self.schedule = network, schedule

    @torch.no_grad()
    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """See Denoiser."""
        with torch.autocast(x.device.type, enabled=False):
            return self.network(x, torch.full((x.shape[0],), sigma, device=x.device))


def latent_unet_denoiser(
    configuration: Mapping[str, Any], tensors: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype
) -> Denoiser:
    """A denoiser from what `sdcodec.training.export` stored. Raises BundleError where weights and configuration differ."""
    try:
        network = LatentUNet(latent_unet_config(configuration))
        network.load_state_dict({name: value.float() for name, value in tensors.items()})
        lowest, highest = configuration["sigmas"]
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise misfit("UNet", error) from error
    network.requires_grad_(False).eval()
    step = network.step
    network.to(device, dtype, memory_format=torch.channels_last)
    network.step = step.to(device)  # what is counted in keeps its digits
    sigmas = np.exp(np.linspace(math.log(lowest), math.log(highest), LEVELS_OF_SIGMA))
    return WindowedDenoiser(LatentUNetDenoiser(network, NoiseSchedule(sigmas)), network.config.window)


def latent_unet_config(configuration: Mapping[str, Any]) -> LatentUNetConfig:
    """From a manifest's, whose lists are tuples here. Raises TypeError and KeyError for another version's."""
    values: dict[str, Any] = configuration["network"]
    return LatentUNetConfig(**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})


def _blocks(width: int, count: int, embedding: int) -> nn.ModuleList:
    return nn.ModuleList(ConditionedBlock(width, embedding) for _ in range(count))


def _through(blocks: nn.ModuleList, x: Tensor, level: Tensor) -> Tensor:
    for block in blocks:
        x = block(x, level)
    return x
