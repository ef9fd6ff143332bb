"""UNets of diffusers as denoisers.

Their condition is the embedding of the empty prompt.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sdcodec.denoisers.prediction import PREDICTIONS
from sdcodec.denoisers.protocol import Denoiser
from sdcodec.denoisers.schedule import noise_schedule
from sdcodec.denoisers.windows import WindowedDenoiser
from sdcodec.errors import BundleError, misfit

UNET_PREFIX = "unet."
HIDDEN_STATES, POOLED = "conditioning.hidden_states", "conditioning.pooled"
CLASSES = ("UNet2DConditionModel", "UNet2DModel")
PIXELS_PER_LATENT = 8  # of the families with time ids: SDXL's
AESTHETIC_SCORE = 6.0  # the default of SDXL's refiner


def unet_denoiser(
    configuration: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    device: torch.device,
    dtype: torch.dtype,
    offload: bool = False,
) -> Denoiser:
    """Build a denoiser from the tensors of `sdcodec.bundles.unet_importing`.

    `dtype` is the precision of the computation; float16 on a CPU, which emulates it, becomes float32. Weights stored
    in fewer bits stay so and are widened layer by layer, at the time of use: an SD 1.x UNet takes 1.7 GB, not 3.4.
    offload: keep weights in main memory and send them to the device layer by layer.

    Raises BundleError if the weights do not fit the configuration, or a package is missing.
    """
    if device.type == "cpu" and dtype == torch.float16:
        dtype = torch.float32
    unet = build_unet(configuration["class"], configuration["unet"])
    own = {name.removeprefix(UNET_PREFIX): value for name, value in tensors.items() if name.startswith(UNET_PREFIX)}
    stored = next((value.dtype for value in own.values()), dtype)
    widened = not offload and stored.itemsize < dtype.itemsize
    place = torch.device("cpu") if offload else device
    for name, value in own.items():
        own[name] = value.to(place, stored if widened else dtype)
    try:
        unet.load_state_dict(own, assign=True)
        if configuration["class"] == "UNet2DConditionModel":
            network = UNetNetwork(unet, device, dtype, tensors[HIDDEN_STATES], tensors.get(POOLED))
        else:
            network = UNetNetwork(unet, device, dtype)
        adapter = PREDICTIONS[configuration["prediction"]]
    except (KeyError, RuntimeError) as error:
        raise misfit("UNet", error) from error
    if widened:
        _widen_while_running(unet, dtype)
    if offload:
        import accelerate

        accelerate.cpu_offload(unet, device)
    schedule = noise_schedule(configuration["schedule"], configuration["trained_timesteps"])
    return WindowedDenoiser(adapter(network, schedule), configuration["window"])


def build_unet(name: str, configuration: Mapping[str, Any]) -> Any:
    """Build the network on PyTorch's device "meta", without its weights.

    Raises BundleError for an unknown class or without diffusers.
    """
    if name not in CLASSES:
        raise BundleError(f"the class {name!r} is no UNet that can denoise here; {' and '.join(CLASSES)} are")
    try:
        import diffusers
    except ImportError as error:
        raise BundleError(
            f"a UNet needs the package {error.name}; install sdcodec with its extra: pip install 'sdcodec[sd]'"
        ) from error
    with torch.device("meta"):
        return getattr(diffusers, name).from_config(dict(configuration)).eval().requires_grad_(False)


def _widen_while_running(network: Any, dtype: torch.dtype) -> None:
    """Give each layer its weights in `dtype` while it runs, the stored ones otherwise.

    diffusers' layerwise casting narrows the widened ones again instead: then weights that are mapped from the file
    are copied to memory one by one, which took 1.7 GB more for SD 1.x.
    """
    network.conv_in.to(dtype)  # permanently: diffusers takes the type of a whole network from its first layer
    for layer in network.modules():
        stored = dict(layer.named_parameters(recurse=False))
        if not stored:
            continue

        def widen(layer: torch.nn.Module, _: Any, stored: Mapping[str, torch.nn.Parameter] = stored) -> None:
            for name, value in stored.items():
                layer._parameters[name] = torch.nn.Parameter(value.to(dtype), requires_grad=False)

        def restore(
            layer: torch.nn.Module, _: Any, output: Any, stored: Mapping[str, torch.nn.Parameter] = stored
        ) -> None:
            layer._parameters.update(stored)

        layer.register_forward_pre_hook(widen)
        layer.register_forward_hook(restore, always_call=True)


class UNetNetwork:
    """A UNet for the adapters: float32 in and out, any size, built-in condition."""

    def __init__(
        self,
        unet: Any,
        device: torch.device,
        dtype: torch.dtype,
        hidden_states: Tensor | None = None,
        pooled: Tensor | None = None,
    ) -> None:
        """Take the empty prompt's embedding as the condition.

        hidden_states is `[1, tokens, width]`, pooled `[1, width]`.
        """
        self._unet, self._device, self._dtype = unet, device, dtype
        self._lock = threading.Lock()  # hooks change layers while they run
        self._multiple = 2 ** (len(unet.config.block_out_channels) - 1)
        self._condition: dict[str, Any] = {}
        if hidden_states is not None:
            self._condition["encoder_hidden_states"] = hidden_states.to(device, dtype)
        if pooled is not None:
            ids = time_ids(unet.config, pooled.shape[1]).to(device, dtype)
            self._condition["added_cond_kwargs"] = {"text_embeds": pooled.to(device, dtype), "time_ids": ids}

    @torch.no_grad()
    def __call__(self, x: Tensor, timestep: float) -> Tensor:
        """Predict from the scaled input `[B, C, h, w]` and a continuous timestep."""
        batch, _, height, width = x.shape
        padded = F.pad(x, (0, -width % self._multiple, 0, -height % self._multiple), mode="replicate")
        time = torch.full((batch,), timestep, dtype=torch.float32, device=self._device)
        with self._lock, torch.autocast(self._device.type, enabled=False):
            condition = _repeated(self._condition, batch)
            predicted = self._unet(padded.to(self._device, self._dtype), time, return_dict=False, **condition)[0]
        return predicted[:, :, :height, :width].float()


def time_ids(configuration: Any, pooled_width: int) -> Tensor:
    """Return SDXL's description of the image, `[1, 6]`, in pixels.

    It has original size, corner of the crop and target size: those of a whole image of the size that it was trained
    on, so that it does not imitate small originals, and all windows get the same. The refiner has an aesthetic score
    instead of the target size (`[1, 5]`).
    """
    side = float(largest_side(configuration.sample_size) * PIXELS_PER_LATENT)
    count = (
        configuration.projection_class_embeddings_input_dim - pooled_width
    ) // configuration.addition_time_embed_dim
    values = [side, side, 0.0, 0.0, AESTHETIC_SCORE] if count == 5 else [side, side, 0.0, 0.0, side, side]
    return torch.tensor([values], dtype=torch.float32)


def largest_side(sample_size: int | list[int] | tuple[int, int]) -> int:
    """Return the larger side of the latents that a UNet was trained on."""
    return sample_size if isinstance(sample_size, int) else max(sample_size)


def _repeated(condition: Mapping[str, Any], batch: int) -> dict[str, Any]:
    return {
        key: value.expand(batch, *value.shape[1:]) if isinstance(value, Tensor) else _repeated(value, batch)
        for key, value in condition.items()
    }
