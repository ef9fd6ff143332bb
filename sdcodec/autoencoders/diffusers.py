"""Autoencoders of latent diffusion, from diffusers: an adapter for each family."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdcodec.errors import BundleError, misfit

PATCH = 2  # FLUX.2 joins 2x2 latents into one


class Family(ABC):
    """Adapter of a family: access to its latents, and the scale that its UNet expects.

    `margin` is as in `sdcodec.autoencoders.protocol`; scaled latents are (raw - offset) * multiplier, per channel.
    """

    margin: int | None = None

    def __init__(self, network: Any) -> None:
        self.network = network

    @property
    @abstractmethod
    def factor(self) -> int:
        """Pixels per latent, as the configuration declares them."""

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        return int(self.network.config.latent_channels)

    @abstractmethod
    def raw(self, images: Tensor) -> Tensor:
        """Encode `[B, 3, H, W]` in [-1, 1] to unscaled latents."""

    def images(self, raw: Tensor) -> Tensor:
        """Decode unscaled latents to `[B, 3, H, W]`, about [-1, 1]."""
        return self.network.decode(raw).sample

    def scaling(self) -> tuple[Tensor, Tensor]:
        """Return offset and multiplier, float32 `[C]`."""
        config = self.network.config
        zeros = torch.zeros(self.channels, dtype=torch.float32)
        if config.get("latents_mean") is not None and config.get("latents_std") is not None:
            deviation = torch.tensor(config.latents_std, dtype=torch.float32)
            return torch.tensor(config.latents_mean, dtype=torch.float32), config.scaling_factor / deviation
        return zeros + (config.get("shift_factor") or 0.0), zeros + config.scaling_factor


class KullbackLeibler(Family):
    """AutoencoderKL: Stable Diffusion 1 to 3, SDXL, FLUX.

    Latents are the posterior's mean.
    """

    @property
    def factor(self) -> int:
        return 2 ** (len(self.network.config.block_out_channels) - 1)

    def raw(self, images: Tensor) -> Tensor:
        return self.network.encode(images).latent_dist.mode()


class Flux2(KullbackLeibler):
    """AutoencoderKLFlux2: the posterior's mean in patches of 2x2.

    Stored batch statistics normalise the latents.
    """

    @property
    def factor(self) -> int:
        return PATCH * super().factor

    @property
    def channels(self) -> int:
        return PATCH**2 * super().channels

    def raw(self, images: Tensor) -> Tensor:
        return F.pixel_unshuffle(super().raw(images), PATCH)

    def images(self, raw: Tensor) -> Tensor:
        return super().images(F.pixel_shuffle(raw, PATCH))

    def scaling(self) -> tuple[Tensor, Tensor]:
        statistics = self.network.bn
        variance = statistics.running_var.float() + self.network.config.batch_norm_eps
        return statistics.running_mean.float(), variance.rsqrt()


class Tiny(Family):
    """AutoencoderTiny: TAESD and its siblings.

    It has convolutions only, so that windows with a margin leave no seam.
    """

    def __init__(self, network: Any) -> None:
        super().__init__(network)
        self.margin = math.ceil(max(_reach(network.encoder) / self.factor, _reach(network.decoder)))

    @property
    def factor(self) -> int:
        return 2 ** (len(self.network.config.encoder_block_out_channels) - 1)

    def raw(self, images: Tensor) -> Tensor:
        return self.network.encode(images).latents


class DeepCompression(Family):
    """AutoencoderDC of SANA, without a posterior."""

    @property
    def factor(self) -> int:
        return int(self.network.spatial_compression_ratio)

    def raw(self, images: Tensor) -> Tensor:
        return self.network.encode(images).latent


FAMILIES: dict[str, type[Family]] = {
    "AutoencoderKL": KullbackLeibler,
    "AutoencoderTiny": Tiny,
    "AutoencoderDC": DeepCompression,
    "AutoencoderKLFlux2": Flux2,
}


class DiffusersAutoencoder:
    """A family's network, ready to run.

    Latents are in the space that its UNet expects (see `Family`).
    """

    refinement_reach = math.inf  # the encoder was trained without a quantiser
    refinement_lpips = 1.0  # with more, PSNR would fall: latents move without a limit

    def __init__(self, family: Family, device: torch.device, dtype: torch.dtype, force_upcast: bool = False) -> None:
        """Prepare the network; its precision is that of `running_dtype`."""
        self._family = family
        self.channels, self.factor, self.margin = family.channels, family.factor, family.margin
        self.device = device
        self.dtype = running_dtype(dtype, device, force_upcast)
        offset, multiplier = (values.to(device)[:, None, None] for values in family.scaling())
        self._offset, self._multiplier = offset, multiplier
        network = family.network.requires_grad_(False).eval()
        # diffusers' own `to` warns of modules to be kept in float32 even if there are none.
        nn.Module.to(network, device, self.dtype, memory_format=torch.channels_last)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Encode `[B, 3, H, W]` in [0, 1], sides multiples of `factor`.

        Returns float32 `[B, C, H/f, W/f]`. Raises BundleError if values overflow.
        """
        with torch.autocast(self.device.type, enabled=False):
            raw = self._family.raw(self._input(2 * images - 1)).float()
        return self._finite((raw - self._offset) * self._multiplier)

    @torch.no_grad()
    def decode(self, latents: Tensor, quality_index: int) -> Tensor:
        """Decode float32 `[B, C, h, w]` to float32 `[B, 3, fh, fw]` in [0, 1].

        The quality has no influence. Raises BundleError if values overflow.
        """
        return self._finite(self.unclamped(latents)).clamp_(0, 1)

    def decode_with_gradient(self, latents: Tensor, quality_index: int) -> Tensor:
        """Decode as `decode`, differentiable in the latents."""
        return self._finite(self.unclamped(latents)).clamp(0, 1)

    def unclamped(self, latents: Tensor) -> Tensor:
        """Decode as `decode`, differentiable and not limited to [0, 1]."""
        with torch.autocast(self.device.type, enabled=False):
            raw = latents.to(self.device).float() / self._multiplier + self._offset
            return self._family.images(self._input(raw)).float() * 0.5 + 0.5

    def _input(self, values: Tensor) -> Tensor:
        return values.to(self.device, self.dtype, memory_format=torch.channels_last)

    def _finite(self, values: Tensor) -> Tensor:
        if not bool(torch.isfinite(values).all()):
            raise BundleError(
                f"the autoencoder's values overflow in {str(self.dtype).removeprefix('torch.')}; use --precision float32"
            )
        return values


def running_dtype(dtype: torch.dtype, device: torch.device, force_upcast: bool) -> torch.dtype:
    """Return the precision that a network computes in.

    float16 becomes float32 if the network overflows in it (`force_upcast`: SDXL), and on CPUs, which emulate float16.
    """
    return torch.float32 if dtype == torch.float16 and (force_upcast or device.type == "cpu") else dtype


def build(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Build a network of FAMILIES on PyTorch's device "meta", without its weights.

    Raises BundleError as `network_class`.
    """
    with torch.device("meta"):
        network: nn.Module = network_class(name).from_config(dict(arguments))
    return network


def network_class(name: str) -> Any:
    """Return diffusers' class of this name.

    Raises BundleError for a class without an adapter, or if diffusers is missing or too old.
    """
    if name not in FAMILIES:
        raise BundleError(f"the autoencoder's class {name!r} is not supported; these are: {', '.join(FAMILIES)}")
    try:
        import diffusers
    except ImportError as error:
        raise BundleError(
            f"this model needs the package {error.name}; install sdcodec with its extra: pip install 'sdcodec[sd]'"
        ) from error
    found = getattr(diffusers, name, None)
    if found is None:
        raise BundleError(f"diffusers {diffusers.__version__} has no {name}; install a newer one")
    return found


def load(
    configuration: Mapping[str, Any], weights: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype
) -> DiffusersAutoencoder:
    """Build an autoencoder from a bundle's configuration and weights.

    The configuration has `family` and its `arguments`. Raises BundleError if the weights do not fit.
    """
    try:
        network = build(configuration["family"], configuration["arguments"])
        network.load_state_dict(weights, assign=True)
        family = FAMILIES[configuration["family"]](network)
        autoencoder = DiffusersAutoencoder(family, device, dtype, bool(configuration.get("force_upcast")))
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise misfit("autoencoder", error) from error
    return autoencoder


def _reach(network: nn.Module) -> float:
    """Return the reach of a chain of convolutions, in samples of its input.

    The samples are latents for a decoder, pixels for an encoder.
    """
    reach, spacing = 0.0, 1.0  # of samples, in samples of the input
    for layer in _chain(network.layers):
        if isinstance(layer, nn.Conv2d):
            reach += spacing * (layer.kernel_size[0] // 2)
            spacing *= layer.stride[0]
        elif isinstance(layer, nn.Upsample):
            reach += 0 if layer.mode == "nearest" else 2 * spacing
            spacing /= layer.scale_factor
    return reach


def _chain(layers: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers in order; of a residual block, those of its longer branch."""
    for layer in layers.children():
        if isinstance(getattr(layer, "conv", None), nn.Sequential):
            yield from _chain(layer.conv)
        elif isinstance(layer, nn.Sequential):
            yield from _chain(layer)
        else:
            yield layer
