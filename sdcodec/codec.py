"""Codec: a picture becomes latents, integers, bytes; and back."""

from __future__ import annotations

import functools
import hashlib
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sdcodec import hardware, ratecontrol, tiling, windowed
from sdcodec.bundles import loading, store
from sdcodec.container import (
    BLOCK_LATENTS,
    HIGHEST_QUALITY,
    Container,
    Header,
    block_count,
    latent_grid,
    padded_size,
)
from sdcodec.denoisers import error_levels
from sdcodec.denoisers.protocol import Denoiser
from sdcodec.denoisers.sampler import denoise as denoised
from sdcodec.errors import BundleError, FormatError, ImageError, OptionError
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
from sdcodec.priors.integer import MEAN_BITS
from sdcodec.priors.sources import Coder, CostEstimator, Decoder

DEFAULT_QUALITY = 50.0
BLOCKS_AT_ONCE = 8
GROWTH_BY_THRESHOLD = 2.5  # of log(bytes), for a rounding threshold lower by 1; on the validation pictures


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


@dataclass(frozen=True)
class _Coded:
    """A picture's entropy-coded blocks in raster order and, for bundles with a denoiser, the packed deviations of the error."""

    blocks: tuple[bytes, ...]
    deviations: bytes | None


class Codec:
    """A loaded bundle. Reading it takes longer than a picture does: keep the Codec for the next one."""

    def __init__(
        self,
        model: str | os.PathLike[str] = "tiny",
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
        self._open(bundle, bundle.priors[0], device, precision, offload)

    def _open(
        self, bundle: store.Bundle, entry: store.PriorEntry, device: str, precision: str, offload: bool = False
    ) -> None:
        self.name = bundle.name
        self.fingerprint = entry.fingerprint[: store.FINGERPRINT_BYTES]
        self.device = hardware.device(device)
        self._dtype = hardware.dtype(precision, self.device)
        if offload and self.device.type == "cpu":
            raise OptionError(
                "offload spares a GPU's memory, and this runs on the CPU; leave it out, or choose a device"
            )
        self._bundle, self._offload = bundle, offload
        self._model = loading.load(bundle, entry, self.device, self._dtype)

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
        wanted = Container.from_bytes(data).header.fingerprint
        if model is None:
            found = store.by_fingerprint(wanted)
            if found is None:
                raise BundleError(
                    f"made with a model that is not installed (fingerprint {wanted.hex()}); "
                    "install it, or give its folder as model"
                )
            bundle, entry = found
        else:
            bundle = store.find(model)
            chosen = bundle.prior_for(wanted)
            if chosen is None:
                raise BundleError(_other_model(wanted, bundle.name, bundle.priors[0].fingerprint))
            entry = chosen
        codec = cls.__new__(cls)
        codec._open(bundle, entry, device, precision, offload)
        return codec

    def encode(
        self,
        image: ImageSource,
        *,
        quality: float | None = None,
        target_bytes: int | None = None,
        target_bpp: float | None = None,
        metadata: frozenset[str] = frozenset(),
        max_pixels: int | None = None,
    ) -> Encoded:
        """One picture to the bytes of an `.sdc` file.

        image: a PIL image, a path, the bytes of an image file, or a uint8 array `[H, W]` or `[H, W, 3 or 4]`.
        quality: 0..100 in half steps (default 50). Or target_bytes: the best quality whose file is at most so long; or
            target_bpp: the same in bits per pixel.
        metadata: what to keep of "icc", "exif" and "xmp".

        Raises ImageError for what is no image, BudgetError for a budget that cannot be met, OptionError.
        """
        _check_rate(quality, target_bytes, target_bpp)
        picture = read_picture(image, metadata=metadata, max_pixels=max_pixels or DEFAULT_MAX_PIXELS)
        height, width = picture.rgb.shape[:2]
        if target_bpp is not None:
            target_bytes = math.floor(target_bpp * width * height / 8)
        [latents] = self._latents([picture])
        count = block_count(width, height, self._model.autoencoder.factor)
        empty = self._container(picture, 0, _Coded((b"",) * count, self._no_deviations()))
        if target_bytes is None:
            half_steps = round(2 * (DEFAULT_QUALITY if quality is None else quality))
            data = self._coded(picture, latents, half_steps).to_bytes()
        else:
            overhead = len(empty.to_bytes())
            half_steps = ratecontrol.largest_within(
                target_bytes, width * height, lambda h: overhead + self._estimated_bytes(latents, h)
            )
            data = self._coded(picture, latents, half_steps).to_bytes()
            while len(data) > target_bytes and half_steps > 0:  # the estimate was a few bytes short
                half_steps -= 1
                data = self._coded(picture, latents, half_steps).to_bytes()
            data = self._filled(picture, latents, half_steps, data, target_bytes)
            if len(data) > target_bytes:
                raise ratecontrol.too_few(target_bytes, len(data))
        return Encoded(data, width, height, half_steps / 2)

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
        scale = self._model.gain[HIGHEST_QUALITY] * self._model.inverse_gain[HIGHEST_QUALITY]
        latents = self._latents([picture]) * scale[:, None, None]
        pixels = self._pixels(
            latents, Header(self.fingerprint, HIGHEST_QUALITY, width, height, factor=self._model.autoencoder.factor)
        )
        return Image.fromarray(pixels[0])

    def encode_batch(self, images: Sequence[ImageSource], *, quality: float | None = None) -> list[Encoded]:
        """As `encode` at one quality, several pictures of one size at once: what a GPU wants."""
        _check_rate(quality, None, None)
        half_steps = round(2 * (DEFAULT_QUALITY if quality is None else quality))
        pictures = [read_picture(image) for image in images]
        encoded = []
        for group in _of_one_size(pictures):
            chosen = [pictures[i] for i in group]
            latents = self._latents(chosen)
            coded = self._code_blocks(latents, half_steps)
            for i, picture, own in zip(group, chosen, coded, strict=True):
                height, width = picture.rgb.shape[:2]
                data = self._container(picture, half_steps, own).to_bytes()
                encoded.append((i, Encoded(data, width, height, half_steps / 2)))
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
        _check_denoising(denoise, strength, seed)
        containers = [self._parsed(data, max_pixels or DEFAULT_MAX_PIXELS) for data in files]
        images: dict[int, Image.Image] = {}
        for group in _alike([(c.header.width, c.header.height, c.header.quality) for c in containers]):
            headers = [containers[i].header for i in group]
            symbols = self._decode_blocks([containers[i] for i in group])
            latents = self._dequantised(symbols, headers[0].quality)
            if denoise:
                deviations = [self._deviations(containers[i]) for i in group]
                latents = self._denoised(latents, deviations, denoise, 1.0 if strength is None else strength, seed)
            for i, pixels in zip(group, self._pixels(latents, headers[0]), strict=True):
                images[i] = to_pil(_picture(pixels, containers[i]))
        return [images[i] for i in range(len(files))]

    def symbols(self, data: bytes) -> NDArray[np.int32]:
        """The decoded integers of a file, `[C, h, w]`: symbol plus predicted mean, in 1/16 of a quantiser step."""
        return self._decode_blocks([self._parsed(data, DEFAULT_MAX_PIXELS)])[0]

    def symbols_sha256(self, data: bytes) -> str:
        """A digest of `symbols` as little-endian int32, in hexadecimal: equal wherever the file is decoded."""
        return hashlib.sha256(np.ascontiguousarray(self.symbols(data), dtype="<i4").tobytes()).hexdigest()

    # Pictures and latents

    def _latents(self, pictures: Sequence[Picture]) -> Tensor:
        """Pictures of one size → latents `[B, C, h, w]`, float32; sides padded by edge replication."""
        model = self._model.autoencoder
        pixels = np.stack([_padded(_visible(picture), model.factor) for picture in pictures])
        return windowed.encode(model, pixels, self.device)

    def _pixels(self, latents: Tensor, header: Header) -> NDArray[np.uint8]:
        """Latents `[B, C, h, w]` → uint8 `[B, H, W, 3]`, cropped to the picture."""
        pixels = windowed.decode(self._model.autoencoder, latents, header.quality)
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
        if container.deviations is None:
            return error_levels.uniform_deviations(self._model.gain[container.header.quality])
        return error_levels.unpack_deviations(container.deviations, self._model.autoencoder.channels)

    # Latents and bytes

    def _filled(self, picture: Picture, latents: Tensor, half_steps: int, data: bytes, budget: int) -> bytes:
        """Uses what the step of quality leaves of the budget, by rounding a little more latents away from zero.

        A lower threshold costs more than a higher quality does, but over a hundredth of the file it is worth its bytes.
        """
        best, growth, lowered = data, GROWTH_BY_THRESHOLD, 0.0
        for _ in range(2):
            wanted = math.log(budget / len(data)) - 0.0008  # a few bytes less than all, so that it fits
            if not len(best) / 400 < budget - len(best) < len(best) / 33 or wanted <= 0:
                break
            lowered = wanted / growth
            tried = self._coded(picture, latents, half_steps, 0.5 - lowered).to_bytes()
            growth = max(0.5, math.log(len(tried) / len(data)) / lowered)
            if len(best) < len(tried) <= budget:
                best = tried
        return best

    def _coded(self, picture: Picture, latents: Tensor, half_steps: int, threshold: float = 0.5) -> Container:
        [coded] = self._code_blocks(latents[None], half_steps, threshold)
        return self._container(picture, half_steps, coded)

    def _code_blocks(self, latents: Tensor, half_steps: int, threshold: float = 0.5) -> list[_Coded]:
        """Latents `[B, C, h, w]` → each item coded."""
        prior = self._model.prior
        places = list(tiling.blocks(latents.shape[2], latents.shape[3], BLOCK_LATENTS))
        coded: dict[tuple[int, int], bytes] = {}
        squares = torch.zeros(latents.shape[:2], dtype=torch.float64)
        for chunk in _chunks_of_one_shape(places, latents.shape[0]):
            steps = self._steps(latents, places, chunk, half_steps)
            coder = Coder(steps, prior.hyper_latents(steps, half_steps), prior.tables, threshold)
            values = prior.walk((steps.shape[0], steps.shape[2], steps.shape[3]), half_steps, coder)
            coded |= dict(zip(chunk, coder.finish(), strict=True))
            if self._bundle.denoiser:
                for (item, _), own in zip(chunk, self._squared_error(steps, values, half_steps), strict=True):
                    squares[item] += own
        count = latents.shape[2] * latents.shape[3]
        return [
            _Coded(
                tuple(coded[item, place] for place in range(len(places))),
                error_levels.pack_deviations(own / count) if self._bundle.denoiser else None,
            )
            for item, own in enumerate(squares)
        ]

    def _squared_error(self, steps: Tensor, values: Tensor, half_steps: int) -> Tensor:
        """Of what a decoder will see, in squared units of latents, summed over each channel of a block: `[B, C]`, on the CPU."""
        given = steps / self._model.gain[half_steps][:, None, None]
        seen = values.float() * (self._model.inverse_gain[half_steps][:, None, None] / (1 << MEAN_BITS))
        return (seen - given).square_().sum((2, 3)).cpu()

    def _no_deviations(self) -> bytes | None:
        """As long as what a file will say of the error."""
        return bytes(error_levels.groups(self._model.autoencoder.channels)) if self._bundle.denoiser else None

    def _estimated_bytes(self, latents: Tensor, half_steps: int) -> float:
        """Ideal code length of one picture's latents `[C, h, w]`; real blocks are about two bytes longer."""
        prior = self._model.prior
        places = list(tiling.blocks(latents.shape[1], latents.shape[2], BLOCK_LATENTS))
        total = 0.0
        for chunk in _chunks_of_one_shape(places, 1):
            steps = self._steps(latents[None], places, chunk, half_steps)
            estimator = CostEstimator(steps, prior.hyper_latents(steps, half_steps), prior.tables)
            prior.walk((steps.shape[0], steps.shape[2], steps.shape[3]), half_steps, estimator)
            total += estimator.bits / 8 + len(chunk) * (2 if len(places) > 1 else 1)
        return total

    def _steps(
        self, latents: Tensor, places: list[tuple[slice, slice]], chunk: list[tuple[int, int]], half_steps: int
    ) -> Tensor:
        chosen = torch.stack([latents[item][:, places[place][0], places[place][1]] for item, place in chunk])
        return chosen * self._model.gain[half_steps][:, None, None]

    def _decode_blocks(self, containers: Sequence[Container]) -> list[NDArray[np.int32]]:
        """Containers of one size and quality → what `symbols` returns, for each."""
        prior, header = self._model.prior, containers[0].header
        height, width = latent_grid(header.width, header.height, header.factor)
        places = list(tiling.blocks(height, width, BLOCK_LATENTS))
        channels = self._model.autoencoder.channels
        symbols = [np.empty((channels, height, width), np.int32) for _ in containers]
        for chunk in _chunks_of_one_shape(places, len(containers)):
            rows, columns = places[chunk[0][1]]
            source = Decoder([containers[item].blocks[place] for item, place in chunk], prior.tables, self.device)
            shape = (len(chunk), rows.stop - rows.start, columns.stop - columns.start)
            decoded = prior.walk(shape, header.quality, source).to(torch.int32).cpu().numpy()
            for (item, place), values in zip(chunk, decoded, strict=True):
                symbols[item][:, places[place][0], places[place][1]] = values
        return symbols

    def _dequantised(self, symbols: Sequence[NDArray[np.int32]], half_steps: int) -> Tensor:
        whole = torch.from_numpy(np.stack(symbols)).to(self.device)
        return whole.float().mul_(self._model.inverse_gain[half_steps][:, None, None] / (1 << MEAN_BITS))

    def _container(self, picture: Picture, half_steps: int, coded: _Coded) -> Container:
        height, width = picture.rgb.shape[:2]
        alpha = None if picture.alpha is None else pack_alpha(picture.alpha)
        header = Header(self.fingerprint, half_steps, width, height, factor=self._model.autoencoder.factor)
        return Container(
            header, coded.blocks, alpha, picture.icc, picture.exif, picture.xmp, deviations=coded.deviations
        )

    def _parsed(self, data: bytes, max_pixels: int) -> Container:
        container = Container.from_bytes(data)
        header = container.header
        if header.fingerprint != self.fingerprint:
            raise BundleError(_other_model(header.fingerprint, self.name, self.fingerprint))
        if header.factor != self._model.autoencoder.factor:
            raise FormatError(f"damaged: a latent of {self.name!r} does not stand for {header.factor} pixels a side")
        if header.width * header.height > max_pixels:
            raise ImageError(
                f"{header.width} x {header.height} pixels exceed the limit of {max_pixels}; raise max_pixels"
            )
        return container


def _check_rate(quality: float | None, target_bytes: int | None, target_bpp: float | None) -> None:
    if sum(value is not None for value in (quality, target_bytes, target_bpp)) > 1:
        raise OptionError("quality, target_bytes and target_bpp exclude each other; give one of them")
    if quality is not None and not 0 <= quality <= 100:
        raise OptionError(f"quality {quality} is outside 0..100")
    if target_bytes is not None and target_bytes < 1:
        raise OptionError(f"target_bytes {target_bytes} is not positive")
    if target_bpp is not None and not 0 < target_bpp < math.inf:
        raise OptionError(f"target_bpp {target_bpp} is not positive")


def _check_denoising(steps: int, strength: float | None, seed: int) -> None:
    if steps < 0:
        raise OptionError(f"denoise {steps} is negative; it counts steps, and 0 is none")
    if strength is not None and not 0 <= strength < math.inf:
        raise OptionError(f"strength {strength} is not a factor from 0 up")
    if not 0 <= seed < 1 << 63:
        raise OptionError(f"seed {seed} is outside 0..2**63 - 1")


def _other_model(wanted: bytes, name: str, own: bytes) -> str:
    writer = store.name_of(wanted)
    made = f"model {writer!r} (fingerprint {wanted.hex()})" if writer else f"a model with fingerprint {wanted.hex()}"
    return f"made with {made}, not with {name!r} (fingerprint {own.hex()[:8]}); leave the model out, or install the right one"


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


def _alike(keys: Iterable[tuple[int, ...]]) -> list[list[int]]:
    """Indices of equal keys together, in order of first appearance."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    return list(groups.values())


def _of_one_size(pictures: Sequence[Picture]) -> list[list[int]]:
    return _alike([picture.rgb.shape[:2] for picture in pictures])


def _chunks_of_one_shape(places: list[tuple[slice, slice]], items: int) -> Iterator[list[tuple[int, int]]]:
    """(item, place) pairs whose blocks have one shape, a few at a time."""
    shapes = [(rows.stop - rows.start, columns.stop - columns.start) for rows, columns in places]
    for group in _alike(shapes):
        pairs = [(item, place) for place in group for item in range(items)]
        for start in range(0, len(pairs), BLOCKS_AT_ONCE):
            yield pairs[start : start + BLOCKS_AT_ONCE]
