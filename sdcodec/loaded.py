"""Loaded bundle: its shared weights on a device, and its pickling."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, Self, TypeVar

import torch
from torch import Tensor

from sdcodec import hardware
from sdcodec.bundles import shared, store
from sdcodec.container import Container, latent_grid
from sdcodec.denoisers import error_levels
from sdcodec.denoisers.protocol import Denoiser
from sdcodec.denoisers.sampler import denoise as denoised
from sdcodec.errors import BundleError, FormatError, ImageError, OptionError, warn
from sdcodec.model import Model
from sdcodec.sources import SdcSource, naming, naming_source, sdc_bytes

P = ParamSpec("P")
R = TypeVar("R")
DECODED_MAX_PIXELS = 2**26  # a header may claim any size, so less than for images that are there
SMALL_PADDED_PIXELS = 2**20  # always decoded: thin pictures are padded up to 32-fold
SMALLER = "take a smaller picture, precision bfloat16 or float16, or another device"  # if memory is exhausted


def file_method(method: Callable[P, R]) -> Callable[P, R]:
    """Decorate a method of `Codec` whose first argument is an image or a file.

    Its errors name the file, and the caller's modes of PyTorch do not affect it.
    """
    return hardware.undisturbed(naming_source(method))


class LoadedBundle:
    """Base of `Codec`: a bundle, its options, and its model for each of its priors."""

    @hardware.undisturbed
    def __init__(
        self,
        model: str | os.PathLike[str] = store.DEFAULT,
        *,
        device: str = "auto",
        precision: str = "auto",
        offload: bool = False,
    ) -> None:
        """Load a model.

        model: the name of a bundle, or its folder.
        device: auto (CUDA, then MPS, then CPU), cpu, cuda or mps, as PyTorch names them.
        precision: of the autoencoder and the UNet: auto (bfloat16 where it is fast), float32, bfloat16 or float16.
            Symbols of a file never depend on it.
        offload: keep the UNet's weights in main memory and send them to the GPU layer by layer: slower, for small
            GPUs.

        Raises BundleError for an unknown or damaged model, OptionError for a device that is not available.
        """
        self._bundle = store.find(model)
        self._options: dict[str, Any] = {"device": device, "precision": precision, "offload": offload}
        self.name = self._bundle.name
        self.fingerprint = self._bundle.priors[0].fingerprint[: store.FINGERPRINT_BYTES]
        self.device = hardware.device(device)
        self._dtype, self._offload = hardware.dtype(precision, self.device), offload
        if offload and self.device.type == "cpu":
            raise OptionError(
                "offload spares a GPU's memory, and this runs on the CPU; leave it out, or choose a device"
            )
        self._model = self._loaded(self._bundle.priors[0])
        self._with_earlier_priors: dict[bytes, Model] = {}  # by the fingerprint in a file

    @property
    def default_realism(self) -> float | None:
        """Realism, 0..1, that it decodes with unless told otherwise.

        None if the model's decoder has no realism to choose.
        """
        return self._bundle.default_realism

    @classmethod
    def for_file(
        cls,
        data: SdcSource,
        *,
        model: str | os.PathLike[str] | None = None,
        device: str = "auto",
        precision: str = "auto",
        offload: bool = False,
    ) -> Self:
        """Load the model that decodes `data`, found by its fingerprint.

        data: as for `Codec.decode`; a file that cannot be rewound is used up.

        The search is among all bundles or in the given one. Raises FormatError for damaged data and BundleError if no
        bundle fits.
        """
        with naming(data):
            bundle = store.that_wrote(Container.from_bytes(sdc_bytes(data)).header.fingerprint, model)
        return cls(bundle.folder, device=device, precision=precision, offload=offload)

    def _parsed(self, data: SdcSource, max_pixels: int, recover: bool = False) -> Container:
        with naming(data):
            return self._checked(Container.from_bytes(sdc_bytes(data), recover=recover), max_pixels)

    def _checked(self, container: Container, max_pixels: int) -> Container:
        """Check that this model decodes a file, within the limit of pixels."""
        header = container.header
        if container.trailing:
            warn(f"{container.trailing} bytes behind the end of the file are ignored")
        if container.lost:
            warn(f"damaged; recovered without {', '.join(container.lost)}")
        if self._bundle.prior_for(header.fingerprint) is None:
            raise store.other_model(header.fingerprint, self._bundle)
        if header.factor != self._model.autoencoder.factor:
            raise FormatError(
                f"damaged: latents at 1/{header.factor} of the size; the model {self.name!r} has them at "
                f"1/{self._model.autoencoder.factor}"
            )
        if header.width * header.height > max_pixels:
            raise ImageError(
                f"{header.width} x {header.height} pixels exceed the limit of {max_pixels}; raise --max-pixels (max_pixels)"
            )
        rows, columns = (header.factor * side for side in latent_grid(header.width, header.height, header.factor))
        if rows * columns > max(2 * max_pixels, SMALL_PADDED_PIXELS):
            raise ImageError(
                f"{header.width} x {header.height} pixels are decoded as {columns} x {rows}, more than twice the limit of "
                f"{max_pixels}; raise --max-pixels (max_pixels)"
            )
        return container

    def _model_of(self, container: Container) -> Model:
        """Return the model with the prior that a file was coded with."""
        wanted = container.header.fingerprint
        if wanted == self.fingerprint:
            return self._model
        if wanted not in self._with_earlier_priors:
            entry = self._bundle.prior_for(wanted)
            assert entry is not None  # `_parsed` has checked
            self._with_earlier_priors[wanted] = self._loaded(entry)
        return self._with_earlier_priors[wanted]

    @hardware.explained_memory(SMALLER)
    def _loaded(self, entry: store.PriorEntry) -> Model:
        return shared.load(self._bundle, entry, self.device, self._dtype, self._offload)

    def _denoised(
        self, latents: Tensor, containers: Sequence[Container], num_steps: int, strength: float | None, seed: int
    ) -> Tensor:
        """Denoise dequantised latents `[B, C, h, w]`, image by image."""
        with hardware.explained_memory(
            "decode without denoising, with precision float16 or bfloat16, or on another device"
        ):
            unet, factor = self._denoiser, 1.0 if strength is None else strength
            each = zip(latents[:, None], map(self._deviations, containers), strict=True)
            return torch.cat([denoised(own, error, unet, num_steps, factor, seed) for own, error in each])

    def _deviations(self, container: Container) -> Tensor:
        """Return the standard deviation of the latents' error, `[C]`.

        It is the measured one, or else that of rounding.
        """
        model = self._model_of(container)
        if container.deviations is None or not model.measures_error:
            return error_levels.uniform_deviations(model.quantiser.inverse_gain[container.header.quality_index])
        return error_levels.unpack_deviations(container.deviations, model.autoencoder.channels)

    def __getstate__(self) -> dict[str, Any]:
        bundle = self._bundle
        model = bundle.folder.name if store.is_installed(bundle) else str(bundle.folder.resolve())
        return {"model": model, "fingerprint": bundle.priors[0].fingerprint, "options": self._options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["model"], **state["options"])  # type: ignore[misc]
        found, wanted = self._bundle.priors[0].fingerprint, state["fingerprint"]
        if found != wanted:
            raise BundleError(
                f"the model {state['model']!r} has the fingerprint {found.hex()[:8]} here, the pickled Codec had "
                f"{wanted.hex()[:8]}; install the same model"
            )

    @functools.cached_property
    def _denoiser(self) -> Denoiser:
        """The bundle's UNet, read at its first use.

        Raises BundleError if the bundle has none.
        """
        if self._model.load_denoiser is None:
            raise BundleError(
                f"the model {self.name!r} has no UNet to denoise with; "
                "decode without denoising, or add a model that has one: sdcodec models add NAME --from FOLDER --unet"
            )
        return self._model.load_denoiser()
