"""The autoencoders of latent diffusion, as diffusers has them: a thin adapter for each family."""

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
    """What tells a family from the others: how latents are taken out of its network, and the scale that its UNet knows.

    `margin` is as in `sdcodec.autoencoders.protocol`; scaled latents are (raw - offset) * multiplier, per channel.
    """

    margin: int | None = None

    def __init__(self, network: Any) -> None:
        self.network = network

    @property
    @abstractmethod
    def factor(self) -> int:
        """Pixels a latent, as the configuration declares them."""

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        return int(self.network.config.latent_channels)

    @abstractmethod
    def raw(self, images: Tensor) -> Tensor:
        """`[B, 3, H, W]` in [-1, 1] → unscaled latents."""

    def images(self, raw: Tensor) -> Tensor:
        """Unscaled latents → `[B, 3, H, W]`, about [-1, 1]."""
        return self.network.decode(raw).sample

    def scaling(self) -> tuple[Tensor, Tensor]:
        """Offset and multiplier, float32 `[C]`."""
        config = self.network.config
        zeros = torch.zeros(self.channels)
        if config.get("latents_mean") is not None and config.get("latents_std") is not None:
            deviation = torch.tensor(config.latents_std, dtype=torch.float32)
            return torch.tensor(config.latents_mean, dtype=torch.float32), config.scaling_factor / deviation
        return zeros + (config.get("shift_factor") or 0.0), zeros + config.scaling_factor


class KullbackLeibler(Family):
    """AutoencoderKL: Stable Diffusion 1 to 3, SDXL, FLUX. Latents are the posterior's mean."""

    @property
    def factor(self) -> int:
        return 2 ** (len(self.network.config.block_out_channels) - 1)

    def raw(self, images: Tensor) -> Tensor:
        return self.network.encode(images).latent_dist.mode()


class Flux2(KullbackLeibler):
    """AutoencoderKLFlux2: the posterior's mean in patches of 2x2, which stored batch statistics normalise."""

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
    """AutoencoderTiny: TAESD and its siblings. Convolutions only, so windows with a margin leave no trace."""

    def __init__(self, network: Any) -> None:
        super().__init__(network)
        self.margin = math.ceil(max(_reach(network.encoder) / self.factor, _reach(network.decoder)))

    @property
    def factor(self) -> int:
        return 2 ** (len(self.network.config.encoder_block_out_channels) - 1)

    def raw(self, images: Tensor) -> Tensor:
        return self.network.encode(images).latents


class DeepCompression(Family):
    """AutoencoderDC: SANA's; no posterior."""

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
    """A family's network, ready to run; latents are in the space that its UNet knows (see `Family`)."""

    refinement_reach = math.inf  # trained without a quantiser
    refinement_lpips = 1.0  # more would buy LPIPS with PSNR: nothing holds latents near
    quick_to_refine = False  # a full-size decoder takes minutes

    def __init__(self, family: Family, device: torch.device, dtype: torch.dtype, force_upcast: bool = False) -> None:
        """The precision is `dtype` where the network bears it: see `running_dtype`."""
        self._family = family
        self.channels, self.factor, self.margin = family.channels, family.factor, family.margin
        self.device = device
        self.dtype = running_dtype(dtype, device, force_upcast)
        offset, multiplier = (values.to(device)[:, None, None] for values in family.scaling())
        self._offset, self._multiplier = offset, multiplier
        network = family.network.requires_grad_(False).eval()
        # Not diffusers' own `to`, which warns of modules to be kept in float32 even where there are none.
        nn.Module.to(network, device, self.dtype, memory_format=torch.channels_last)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """`[B, 3, H, W]` in [0, 1], sides multiples of `factor` → float32 `[B, C, H/f, W/f]`. Raises BundleError."""
        with torch.autocast(self.device.type, enabled=False):
            raw = self._family.raw(self._input(2 * images - 1)).float()
        return self._finite((raw - self._offset) * self._multiplier)

    @torch.no_grad()
    def decode(self, latents: Tensor, quality_index: int) -> Tensor:
        """Float32 `[B, C, h, w]` → float32 `[B, 3, fh, fw]` in [0, 1], whatever the quality. Raises BundleError."""
        return self._finite(self.unclamped(latents)).clamp_(0, 1)

    def decode_with_gradient(self, latents: Tensor, quality_index: int) -> Tensor:
        """As `decode`, and differentiable in the latents."""
        return self._finite(self.unclamped(latents)).clamp(0, 1)

    def unclamped(self, latents: Tensor) -> Tensor:
        """As `decode`, differentiable, and not limited to [0, 1]."""
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
    """float32 in the place of float16 where the network overflows in it (`force_upcast`: SDXL), and on CPUs, which emulate it."""
    return torch.float32 if dtype == torch.float16 and (force_upcast or device.type == "cpu") else dtype


def build(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """A network of a class of FAMILIES without memory for its weights (PyTorch's device "meta"). Raises BundleError."""
    with torch.device("meta"):
        network: nn.Module = network_class(name).from_config(dict(arguments))
    return network


def network_class(name: str) -> Any:
    """Diffusers' class. Raises BundleError for one that has no adapter here, or where diffusers is missing or too old."""
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
    """From a bundle's configuration (`family`, its `arguments`) and weights. Raises BundleError where they do not fit."""
    try:
        network = build(configuration["family"], configuration["arguments"])
        network.load_state_dict(weights, assign=True)
        family = FAMILIES[configuration["family"]](network)
        autoencoder = DiffusersAutoencoder(family, device, dtype, bool(configuration.get("force_upcast")))
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise misfit("autoencoder", error) from error
    return autoencoder


def _reach(network: nn.Module) -> float:
    """How far a chain of convolutions looks, in samples of its input: of a decoder, latents; of an encoder, pixels."""
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
    """Layers one after the other; of a residual block, those of its longer way."""
    for layer in layers.children():
        if isinstance(getattr(layer, "conv", None), nn.Sequential):
            yield from _chain(layer.conv)
        elif isinstance(layer, nn.Sequential):
            yield from _chain(layer)
        else:
            yield layer
