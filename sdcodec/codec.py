"""Codec: a picture becomes latents, integers, bytes; and back."""

from __future__ import annotations

import functools
import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sdcodec import blocks, hardware, palette, ratecontrol, tiling, windowed
from sdcodec.autoencoders.protocol import DifferentiableAutoencoder
from sdcodec.bundles import loading, store
from sdcodec.constants import HIGHEST_QUALITY_INDEX, MEAN_BITS
from sdcodec.container import (
    Container,
    Header,
    block_count,
    latent_grid,
    padded_size,
)
from sdcodec.denoisers import error_levels
from sdcodec.denoisers.protocol import Denoiser
from sdcodec.denoisers.sampler import denoise as denoised
from sdcodec.effort import check_effort, effort_of
from sdcodec.errors import FormatError, ImageError, OptionError
from sdcodec.model import Model
from sdcodec.options import check_denoising, check_mode, check_rate
from sdcodec.pixels import (
    DEFAULT_MAX_PIXELS,
    ImageSource,
    Picture,
    pack_alpha,
    read_picture,
    smooth_hidden_colour,
    to_pil,
    unpack_alpha,
)
from sdcodec.ratecontrol import Setting

DEFAULT_QUALITY = 50.0
SMALLER = "take a smaller picture, precision bfloat16 or float16, or another device"  # where memory is exhausted


@dataclass(frozen=True)
class Encoded:
    """An encoded picture: the file's bytes, the picture's size in pixels, and the quality 0..100 that was used."""

    data: bytes
    width: int
    height: int
    quality: float

    @property
    def bpp(self) -> float:
        """Bits of the whole file per pixel."""
        return 8 * len(self.data) / (self.width * self.height)


class Codec:
    """A loaded bundle. Reading it takes longer than a picture does: keep the Codec for the next one."""

    def __init__(
        self,
        model: str | os.PathLike[str] = store.DEFAULT,
        *,
        device: str = "auto",
        precision: str = "auto",
        offload: bool = False,
    ) -> None:
        """
        model: the name of a bundle, or its folder.
        device: auto (CUDA, then MPS, then CPU), cpu, cuda or mps, as PyTorch names them.
        precision: of the autoencoder and the UNet: auto (bfloat16 where it is fast), float32, bfloat16 or float16. What
            symbols a file decodes to never depends on it.
        offload: the UNet's weights stay in main memory and go to the GPU layer by layer: slower, for GPUs of few gigabytes.

        Raises BundleError for an unknown or damaged model, OptionError for a device that is not there.
        """
        bundle = store.find(model)
        self.name = bundle.name
        self.fingerprint = bundle.priors[0].fingerprint[: store.FINGERPRINT_BYTES]
        self.device = hardware.device(device)
        self._dtype = hardware.dtype(precision, self.device)
        if offload and self.device.type == "cpu":
            raise OptionError(
                "offload spares a GPU's memory, and this runs on the CPU; leave it out, or choose a device"
            )
        self._bundle, self._offload = bundle, offload
        with hardware.explained_memory(SMALLER):
            self._model = loading.load(bundle, bundle.priors[0], self.device, self._dtype)
        self._with_earlier_priors: dict[bytes, Model] = {}  # by what files name, when one asks for it

    @classmethod
    def for_file(
        cls,
        data: bytes,
        *,
        model: str | os.PathLike[str] | None = None,
        device: str = "auto",
        precision: str = "auto",
        offload: bool = False,
    ) -> Codec:
        """The Codec that decodes `data`: found by the fingerprint in it, among all bundles or in the one that is given.

        Raises FormatError for damaged data and BundleError where no bundle fits.
        """
        bundle = store.that_wrote(Container.from_bytes(data).header.fingerprint, model)
        return cls(bundle.folder, device=device, precision=precision, offload=offload)

    def encode(
        self,
        image: ImageSource,
        *,
        quality: float | None = None,
        target_bytes: int | None = None,
        target_bpp: float | None = None,
        effort: int | None = None,
        mode: str = "latents",
        metadata: frozenset[str] = frozenset(),
        max_pixels: int | None = None,
    ) -> Encoded:
        """One picture to the bytes of an `.sdc` file.

        image: a PIL image, a path, the bytes of an image file, or a uint8 array `[H, W]` or `[H, W, 3 or 4]`.
        quality: 0..100 in half steps (default 50). Or target_bytes: the best quality whose file is at most so long, and
            where quality 0 is longer, that with more latents rounded to nothing; or target_bpp: the same in bits per pixel.
        effort: 0..9, how much time goes into a better file: 1 to 3 weigh bits while rounding, 4 to 9 refine the latents by
            gradient descent, twice the steps a level. By default 6 with the models that ship in pictures of up to
            2**19 pixels, 4 up to 2**20, else 0. Files of every effort decode alike.
        mode: "latents", or "palette" for the experiment of 2022 (`sdcodec.palette`): 256 colours, or with target_bytes or
            target_bpp as many as fit; it has no quality and no effort.
        metadata: what to keep of "icc", "exif" and "xmp".

        Raises ImageError for what is no image, BudgetError for a budget that cannot be met, OptionError, NotEnoughMemoryError.
        """
        check_rate(quality, target_bytes, target_bpp)
        check_mode(mode, quality, effort)
        check_effort(effort)
        picture = read_picture(image, metadata=metadata, max_pixels=max_pixels or DEFAULT_MAX_PIXELS)
        height, width = picture.rgb.shape[:2]
        plan = effort_of(effort, self._model.autoencoder, width * height)
        if target_bpp is not None:
            target_bytes = math.floor(target_bpp * width * height / 8)
        [latents] = self._latents([picture])
        if mode == "palette":
            return self._palettised(picture, latents, target_bytes)
        if target_bytes is None:
            quality_index = round(2 * (DEFAULT_QUALITY if quality is None else quality))
            latents = self._refined(picture, latents, quality_index, plan.iterations)
            data = self._coded(picture, latents, Setting(quality_index, plan.rounding))
            return Encoded(data, width, height, quality_index / 2)
        count = block_count(width, height, self._model.autoencoder.factor)
        empty = self._container(picture, 0, (b"",) * count, self._no_deviations())
        overhead = len(empty.to_bytes())

        def best_setting(latents: Tensor, near: int | None = None) -> Setting:
            return ratecontrol.best_setting(
                target_bytes,
                width * height,
                plan.rounding,
                lambda s: overhead + blocks.estimated_bytes(self._model, latents, s.quality_index, s.rounding),
                near,
            )

        setting = best_setting(latents)
        if plan.iterations:
            latents = self._refined(picture, latents, setting.quality_index, plan.iterations, target_bytes - overhead)
            setting = best_setting(latents, setting.quality_index)
        data, setting = ratecontrol.coded_within(target_bytes, setting, lambda s: self._coded(picture, latents, s))
        return Encoded(data, width, height, setting.quality_index / 2)

    def decode(
        self,
        data: bytes,
        *,
        max_pixels: int | None = None,
        denoise: int = 0,
        strength: float | None = None,
        seed: int = 0,
    ) -> Image.Image:
        """The bytes of an `.sdc` file to a PIL image, RGB or RGBA; kept metadata is in its `info`.

        denoise: steps of the bundle's UNet that clean the latents first (0: none; 1 to 4 for turbo models). Where the error
            lies below what the UNet was trained on, nothing is done.
        strength: what the measured deviation of the latents' error is multiplied by (None: 1).
        seed: of the noise that turbo models add. Same seed and device: same pixels.

        Raises FormatError for damaged data, BundleError where another model wrote it or the model has no UNet, ImageError
        beyond max_pixels, NotEnoughMemoryError, OptionError.
        """
        return self.decode_batch([data], max_pixels=max_pixels, denoise=denoise, strength=strength, seed=seed)[0]

    def round_trip(self, image: ImageSource, *, max_pixels: int | None = None) -> Image.Image:
        """What the autoencoder makes of a picture, RGB, when its latents are not quantised: the ceiling of every quality.

        Decoders that depend on quality are given the highest. Raises ImageError for what is no image.
        """
        picture = read_picture(image, max_pixels=max_pixels or DEFAULT_MAX_PIXELS)
        height, width = picture.rgb.shape[:2]
        # Gains and their inverses are learned apart: their product is not one.
        scale = (
            self._model.quantiser.gain[HIGHEST_QUALITY_INDEX]
            * self._model.quantiser.inverse_gain[HIGHEST_QUALITY_INDEX]
        )
        latents = self._latents([picture]) * scale[:, None, None]
        pixels = self._pixels(
            latents,
            Header(self.fingerprint, HIGHEST_QUALITY_INDEX, width, height, factor=self._model.autoencoder.factor),
        )
        return Image.fromarray(pixels[0])

    def encode_batch(
        self, images: Sequence[ImageSource], *, quality: float | None = None, effort: int | None = None
    ) -> list[Encoded]:
        """As `encode` at one quality, several pictures of one size at once: what a GPU wants. Refining goes one by one.

        Raises as `encode`.
        """
        check_rate(quality, None, None)
        check_effort(effort)
        quality_index = round(2 * (DEFAULT_QUALITY if quality is None else quality))
        pictures = [read_picture(image) for image in images]
        encoded = []
        for group in _of_one_size(pictures):
            chosen = [pictures[i] for i in group]
            height, width = chosen[0].rgb.shape[:2]
            plan = effort_of(effort, self._model.autoencoder, width * height)
            latents = self._latents(chosen)
            for own, picture in zip(latents, chosen, strict=True):
                own.copy_(self._refined(picture, own, quality_index, plan.iterations))
            coded = blocks.code(self._model, latents, quality_index, plan.rounding, self._measures_error)
            for i, picture, result in zip(group, chosen, coded, strict=True):
                data = self._filed(picture, quality_index, result).to_bytes()
                encoded.append((i, Encoded(data, width, height, quality_index / 2)))
        return [result for _, result in sorted(encoded, key=lambda pair: pair[0])]

    def decode_batch(
        self,
        files: Sequence[bytes],
        *,
        max_pixels: int | None = None,
        denoise: int = 0,
        strength: float | None = None,
        seed: int = 0,
    ) -> list[Image.Image]:
        """As `decode`, several files at once; those of one size and quality go through the autoencoder together.

        The UNet takes them one by one, each from the same seed: what needs most memory is no more than for one picture.
        """
        check_denoising(denoise, strength, seed)
        containers = [self._parsed(data, max_pixels or DEFAULT_MAX_PIXELS) for data in files]
        headers = [container.header for container in containers]
        images: dict[int, Image.Image] = {}
        for group in tiling.alike((h.fingerprint, h.width, h.height, h.quality_index) for h in headers):
            latents = self._decoded_latents([containers[i] for i in group])
            if denoise:
                deviations = [self._deviations(containers[i]) for i in group]
                latents = self._denoised(latents, deviations, denoise, 1.0 if strength is None else strength, seed)
            for i, pixels in zip(group, self._pixels(latents, headers[group[0]]), strict=True):
                images[i] = to_pil(_picture(pixels, containers[i]))
        return [images[i] for i in range(len(files))]

    def symbols(self, data: bytes) -> NDArray[np.int32]:
        """The decoded integers of a file, `[C, h, w]`.

        Symbol plus predicted mean, in 1/16 of a quantiser step; of a palette's file, what `palette.Palettised.values` says.
        Raises FormatError for damaged data, BundleError where another model wrote it, ImageError for more pixels than usual.
        """
        container = self._parsed(data, DEFAULT_MAX_PIXELS)
        if container.palette is not None:
            return self._palette(container).values()
        return blocks.decode(self._model_of(container), [container], self.device)[0]

    def symbols_sha256(self, data: bytes) -> str:
        """A digest of `symbols` as little-endian int32, in hexadecimal: equal wherever the file is decoded."""
        return hashlib.sha256(np.ascontiguousarray(self.symbols(data), dtype="<i4").tobytes()).hexdigest()

    # Pictures and latents

    @hardware.explained_memory(SMALLER)
    def _latents(self, pictures: Sequence[Picture]) -> Tensor:
        """Pictures of one size → latents `[B, C, h, w]`, float32; sides padded by edge replication."""
        model = self._model.autoencoder
        pixels = np.stack([_padded(_visible(picture), model.factor) for picture in pictures])
        return windowed.encode(model, pixels, self.device)

    @hardware.explained_memory(SMALLER)
    def _pixels(self, latents: Tensor, header: Header) -> NDArray[np.uint8]:
        """Latents `[B, C, h, w]` → uint8 `[B, H, W, 3]`, cropped to the picture."""
        pixels = windowed.decode(self._model.autoencoder, latents, header.quality_index)
        return pixels[:, : header.height, : header.width]

    def _denoised(
        self, latents: Tensor, deviations: Sequence[Tensor], steps: int, strength: float, seed: int
    ) -> Tensor:
        """Dequantised latents `[B, C, h, w]` and each picture's deviations of the error `[C]` → cleaner latents."""
        with hardware.explained_memory(
            "decode without denoising, with precision float16 or bfloat16, or on another device"
        ):
            unet = self._denoiser
            each = zip(latents[:, None], deviations, strict=True)
            return torch.cat([denoised(own, error, unet, steps, strength, seed) for own, error in each])

    @functools.cached_property
    def _denoiser(self) -> Denoiser:
        """The bundle's UNet, read when it is asked for the first time."""
        return loading.load_denoiser(self._bundle, self.device, self._dtype, self._offload)

    def _deviations(self, container: Container) -> Tensor:
        """Of the latents' error, `[C]`: as measured, or where the file does not say, what rounding leaves."""
        if container.deviations is None or not self._measures_error:
            return error_levels.uniform_deviations(
                self._model_of(container).quantiser.inverse_gain[container.header.quality_index]
            )
        return error_levels.unpack_deviations(container.deviations, self._model.autoencoder.channels)

    # Latents and bytes

    @hardware.explained_memory(SMALLER)
    def _refined(
        self, picture: Picture, latents: Tensor, quality_index: int, iterations: int, budget: int | None = None
    ) -> Tensor:
        """Latents `[C, h, w]` moved to where the file is better (`sdcodec.refinement`); budget: bytes for the blocks."""
        if not iterations:
            return latents
        if not isinstance(self._model.autoencoder, DifferentiableAutoencoder):
            raise OptionError(f"the model {self.name!r} has no gradient to refine by; choose an effort from 0 to 3")
        from sdcodec.refinement import Refiner  # LPIPS comes with it

        pixels = (
            torch.from_numpy(_padded(_visible(picture), self._model.autoencoder.factor))
            .to(self.device)
            .permute(2, 0, 1)
            .float()
            .div_(255)
        )
        height, width = picture.rgb.shape[:2]
        bits = (
            None if budget is None else 8.0 * (budget - 2 * block_count(width, height, self._model.autoencoder.factor))
        )
        return Refiner(self._model, quality_index, pixels, (height, width)).run(latents, iterations, bits)

    def _coded(self, picture: Picture, latents: Tensor, setting: Setting) -> bytes:
        [coded] = blocks.code(self._model, latents[None], setting.quality_index, setting.rounding, self._measures_error)
        return self._filed(picture, setting.quality_index, coded).to_bytes()

    @property
    def _measures_error(self) -> bool:
        """Whether files carry the deviation of their latents' error."""
        return self._bundle.denoiser is not None

    def _no_deviations(self) -> bytes | None:
        """As long as what a file will say of the error."""
        return bytes(error_levels.groups(self._model.autoencoder.channels)) if self._measures_error else None

    def _model_of(self, container: Container) -> Model:
        """The autoencoder with that prior of the bundle which the file was coded with."""
        wanted, earlier = container.header.fingerprint, self._with_earlier_priors
        if wanted == self.fingerprint:
            return self._model
        if wanted not in earlier:
            entry = self._bundle.prior_for(wanted)
            assert entry is not None  # `_parsed` has looked
            prior, quantiser = loading.load_prior(self._bundle, entry, self.device)
            earlier[wanted] = replace(self._model, prior=prior, quantiser=quantiser)
        return earlier[wanted]

    def _decoded_latents(self, containers: Sequence[Container]) -> Tensor:
        """Containers of one size, quality and prior → latents `[B, C, h, w]`."""
        model = self._model_of(containers[0])
        coded = [container for container in containers if container.palette is None]
        symbols = iter(blocks.decode(model, coded, self.device) if coded else ())
        dequantised = [
            _dequantised(next(symbols), model.quantiser.inverse_gain[container.header.quality_index], MEAN_BITS)
            if container.palette is None
            else _dequantised(
                self._palette(container).values(), model.quantiser.inverse_gain[palette.MIDDLE], palette.VALUE_BITS
            )
            for container in containers
        ]
        return torch.stack(dequantised)

    # The experiment of 2022

    def _palettised(self, picture: Picture, latents: Tensor, target_bytes: int | None) -> Encoded:
        """A file of as many colours as fit into `target_bytes`, at most 256."""
        height, width = picture.rgb.shape[:2]
        steps = (latents * self._model.quantiser.gain[palette.MIDDLE][:, None, None]).cpu().numpy()
        quality = 0

        def coded(colours: int) -> bytes:
            nonlocal quality
            chosen = palette.palettised(steps, colours)
            error = torch.from_numpy(chosen.values() / (1 << palette.VALUE_BITS) - steps).square_().mean((1, 2))
            quality = palette.quality_of_error(float(error.mean()), self._model.quantiser.gain)
            deviations = None
            if self._measures_error:
                deviations = error_levels.pack_deviations(
                    error * self._model.quantiser.inverse_gain[palette.MIDDLE].cpu().square()
                )
            container = self._container(picture, quality, (), deviations)
            return replace(container, palette=chosen.to_bytes()).to_bytes()

        data = coded(palette.MOST_COLOURS)
        if target_bytes is not None and len(data) > target_bytes:
            data = ratecontrol.most_within(target_bytes, palette.MOST_COLOURS - 1, coded)
        return Encoded(data, width, height, quality / 2)

    def _palette(self, container: Container) -> palette.Palettised:
        header = container.header
        height, width = latent_grid(header.width, header.height, header.factor)
        assert container.palette is not None
        return palette.Palettised.from_bytes(container.palette, self._model.autoencoder.channels, height, width)

    # Files

    def _filed(self, picture: Picture, quality_index: int, coded: blocks.CodedLatents) -> Container:
        squared = coded.squared_error
        deviations = None if squared is None else error_levels.pack_deviations(squared)
        return self._container(picture, quality_index, coded.blocks, deviations)

    def _container(
        self, picture: Picture, quality_index: int, coded: tuple[bytes, ...], deviations: bytes | None
    ) -> Container:
        height, width = picture.rgb.shape[:2]
        alpha = None if picture.alpha is None else pack_alpha(picture.alpha)
        header = Header(self.fingerprint, quality_index, width, height, factor=self._model.autoencoder.factor)
        return Container(header, coded, alpha, picture.icc, picture.exif, picture.xmp, deviations=deviations)

    def _parsed(self, data: bytes, max_pixels: int) -> Container:
        container = Container.from_bytes(data)
        header = container.header
        if self._bundle.prior_for(header.fingerprint) is None:
            raise store.other_model(header.fingerprint, self._bundle)
        if header.factor != self._model.autoencoder.factor:
            raise FormatError(f"damaged: a latent of {self.name!r} does not stand for {header.factor} pixels a side")
        if header.width * header.height > max_pixels:
            raise ImageError(
                f"{header.width} x {header.height} pixels exceed the limit of {max_pixels}; raise --max-pixels (max_pixels)"
            )
        return container


def _dequantised(symbols: NDArray[np.int32], inverse_gain: Tensor, bits: int) -> Tensor:
    """Integers `[C, h, w]` that count in 2**-bits steps → latents, float32; `inverse_gain` `[C]`."""
    return torch.from_numpy(symbols).to(inverse_gain.device).float().mul_(inverse_gain[:, None, None] / (1 << bits))


def _visible(picture: Picture) -> NDArray[np.uint8]:
    return picture.rgb if picture.alpha is None else smooth_hidden_colour(picture.rgb, picture.alpha)


def _padded(pixels: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """`[H, W, 3]` with sides up to the next multiple of 4 latents, edges repeated."""
    height, width = pixels.shape[:2]
    missing = ((0, padded_size(height, factor) - height), (0, padded_size(width, factor) - width), (0, 0))
    return np.pad(pixels, missing, mode="edge") if any(after for _, after in missing) else pixels


def _picture(pixels: NDArray[np.uint8], container: Container) -> Picture:
    height, width = pixels.shape[:2]
    alpha = None if container.alpha is None else unpack_alpha(container.alpha, width, height)
    return Picture(pixels, alpha, container.icc, container.exif, container.xmp)


def _of_one_size(pictures: Sequence[Picture]) -> list[list[int]]:
    return tiling.alike([picture.rgb.shape[:2] for picture in pictures])
