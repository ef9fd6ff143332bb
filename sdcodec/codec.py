"""Codec: an image becomes latents, integers and bytes, and back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sdcodec import hardware, ratecontrol, rendering, tiling, windowed
from sdcodec.constants import HIGHEST_QUALITY_INDEX
from sdcodec.container import Container, Header, padded_size
from sdcodec.effort import effort_of
from sdcodec.encoded import Encoded
from sdcodec.loaded import DECODED_MAX_PIXELS, SMALLER, LoadedBundle, file_method
from sdcodec.modes.latents import LatentMode
from sdcodec.modes.protocol import Mode, Request, Source
from sdcodec.options import budget_of, check_denoising, check_mode, check_rate, pixel_limit
from sdcodec.palette.mode import PaletteMode
from sdcodec.pixels import (
    DEFAULT_MAX_PIXELS,
    ImageSource,
    Picture,
    pack_alpha,
    read_picture,
    smooth_hidden_colour,
    to_pil,
)
from sdcodec.rendering import WHOLE, Rendering
from sdcodec.sources import SdcSource, sequence_of
from sdcodec.targets import Target

DEFAULT_QUALITY = 50.0
LATENTS = LatentMode()
MODES: dict[str, Mode] = {"latents": LATENTS, "palette": PaletteMode()}


class Codec(LoadedBundle):
    """A loaded model, shared with every other Codec of the same model and device.

    A Codec can be used from several threads at once. Pickling stores its model's name, fingerprint and options.
    """

    @file_method
    def encode(
        self,
        image: ImageSource,
        *,
        quality: float | None = None,
        target_bytes: int | None = None,
        target_bpp: float | None = None,
        target_lpips: float | None = None,
        target_psnr: float | None = None,
        target_ssimulacra2: float | None = None,
        effort: int = 0,
        mode: str = "latents",
        metadata: str | Iterable[str] = (),
        max_pixels: int | None = None,
        frame: int | None = None,
        allow_truncated: bool = False,
    ) -> Encoded:
        """Encode an image to the bytes of an `.sdc` file.

        image: a PIL image, a path, the bytes of an image file, a file open for binary reading (read from its
            beginning if it can be rewound, as Pillow does), or a uint8 array `[H, W]` or `[H, W, 3 or 4]`.
        quality: 0..100 in steps of 0.5 (default 50). Or target_bytes: the highest quality whose file has at most that
            size; below the size of quality 0, more latents are rounded to zero. Or target_bpp: the same in bits per
            pixel.
        target_lpips (LPIPS 0.1 with AlexNet), target_psnr (dB), target_ssimulacra2 (its package must be installed): the
            lowest quality whose decoded image reaches the value, seen over white.
        effort: 0..9, the time spent on a better file: 1 to 3 weigh bits while rounding, 4 to 9 refine the latents by
            gradient descent, with twice the steps a level.
        mode: "latents", or "palette" for the experiment of 2022 (`sdcodec.palette`): 256 colours, or with
            target_bytes or target_bpp as many as fit; it has no quality and no effort.
        metadata: kinds to keep: "all", "none", or some of "icc", "exif" and "xmp", as a collection or with commas.
        frame: frame or page of the file, counted from 0 (default: the first, with a warning if there are others).
        allow_truncated: encode a file that is cut short; its missing part is grey, black or transparent.

        Raises ImageError for unreadable images, BudgetError for a budget that cannot be met, TargetError for a target
        beyond the highest quality, OptionError, NotEnoughMemoryError.
        """
        targets = {"lpips": target_lpips, "psnr": target_psnr, "ssimulacra2": target_ssimulacra2}
        check_rate(quality, target_bytes, target_bpp, targets)
        check_mode(mode, quality, effort, targets)
        plan = effort_of(effort)
        picture = read_picture(
            image,
            metadata=metadata,
            max_pixels=pixel_limit(max_pixels, DEFAULT_MAX_PIXELS),
            frame=frame,
            allow_truncated=allow_truncated,
        )
        height, width = picture.rgb.shape[:2]
        request = Request(
            quality_index=_quality_index(quality),
            budget=budget_of(target_bytes, target_bpp, width * height),
            effort=plan,
            target=next((Target(name, value, picture) for name, value in targets.items() if value is not None), None),
        )
        [latents] = self._latents([picture])
        source, envelope = self._source(picture, latents), self._envelope(picture)
        with hardware.explained_memory(SMALLER), ratecontrol.itemised(envelope):
            return MODES[mode].encode(self._model, source, envelope, request)

    @file_method
    def decode(
        self,
        data: SdcSource,
        *,
        max_pixels: int | None = None,
        realism: float | None = None,
        scale: float | Fraction = 1,
        recover: bool = False,
        denoise: int = 0,
        strength: float | None = None,
        seed: int = 0,
    ) -> Image.Image:
        """Decode an `.sdc` file to a PIL image, RGB or RGBA.

        Kept metadata is in its `info`.

        data: the file's bytes (also as bytearray, memoryview or `Encoded`), a path, or a file open for binary reading.
        realism: 0 (faithful) to 1 (vivid), for models whose decoder has it (None: the model's default).
        scale: 1, 1/2, 1/4 or 1/8 of the size, sides rounded up: computed directly if the decoder has a head for it,
            else the means of squares of the whole image.
        max_pixels: limit on the size that the file states (default: 2**26).
        recover: decode what is intact of a damaged or cut file, with an SdcodecWarning that says what is lost; lost
            blocks of 64x64 latents are filled from around them.
        denoise: steps of the bundle's UNet on the latents (0: none; 1 to 4 for turbo models). If the error lies below
            what the UNet was trained on, nothing is done.
        strength: factor on the measured deviation of the latents' error (None: 1).
        seed: of the noise that turbo models add. The same seed and device give the same pixels.

        Raises FormatError for damaged data, BundleError if another model wrote it or the model has no UNet,
        ImageError beyond max_pixels, NotEnoughMemoryError, OptionError.
        """
        check_denoising(denoise, strength, seed)
        chosen = Rendering.of(realism, scale, self.default_realism)
        container = self._parsed(data, pixel_limit(max_pixels, DECODED_MAX_PIXELS), recover)
        latents = self._decoded_latents([container])
        if denoise:
            latents = self._denoised(latents, [container], denoise, strength, seed)
        [pixels] = self._pixels(latents, container.header, chosen)
        return to_pil(rendering.picture(pixels, container, chosen))

    @hardware.undisturbed
    def encode_batch(
        self, images: Sequence[ImageSource], *, quality: float | None = None, effort: int = 0
    ) -> list[Encoded]:
        """Encode several images at one quality.

        Images of one size go through the networks together; refinement takes them one by one. Raises as `encode`.
        """
        check_rate(quality)
        plan = effort_of(effort)
        pictures = [read_picture(image) for image in sequence_of(images, "images")]
        encoded: dict[int, Encoded] = {}
        for group in tiling.alike(picture.rgb.shape[:2] for picture in pictures):
            chosen = [pictures[i] for i in group]
            sources = [self._source(own, latents) for own, latents in zip(chosen, self._latents(chosen), strict=True)]
            envelopes = [self._envelope(own) for own in chosen]
            request = Request(_quality_index(quality), None, plan)
            with hardware.explained_memory(SMALLER):
                results = LATENTS.encode_batch(self._model, sources, envelopes, request)
            encoded |= dict(zip(group, results, strict=True))
        return [encoded[i] for i in range(len(pictures))]

    @hardware.undisturbed
    def decode_batch(
        self,
        files: Sequence[SdcSource],
        *,
        max_pixels: int | None = None,
        realism: float | None = None,
        scale: float | Fraction = 1,
        denoise: int = 0,
        strength: float | None = None,
        seed: int = 0,
    ) -> list[Image.Image]:
        """Decode several files.

        Those of one size and quality go through the autoencoder together. The UNet takes them one by one, each from
        the same seed, so that memory stays that of one image. Raises as `decode`.
        """
        check_denoising(denoise, strength, seed)
        rendered = Rendering.of(realism, scale, self.default_realism)
        containers = [
            self._parsed(data, pixel_limit(max_pixels, DECODED_MAX_PIXELS)) for data in sequence_of(files, "files")
        ]
        images: dict[int, Image.Image] = {}
        for group in tiling.alike(_batch_key(container) for container in containers):
            chosen = [containers[i] for i in group]
            latents = self._decoded_latents(chosen)
            if denoise:
                latents = self._denoised(latents, chosen, denoise, strength, seed)
            for i, pixels in zip(group, self._pixels(latents, chosen[0].header, rendered), strict=True):
                images[i] = to_pil(rendering.picture(pixels, containers[i], rendered))
        return [images[i] for i in range(len(containers))]

    @file_method
    def round_trip(
        self, image: ImageSource, *, realism: float | None = None, max_pixels: int | None = None
    ) -> Image.Image:
        """Return the image, RGB, after the autoencoder without quantisation.

        It is the upper bound of every quality. Decoders that depend on quality are given the highest. `realism` as
        for `decode`. Raises ImageError for unreadable images, OptionError.
        """
        chosen = Rendering.of(realism, 1, self.default_realism)
        picture = read_picture(image, max_pixels=pixel_limit(max_pixels, DEFAULT_MAX_PIXELS))
        height, width = picture.rgb.shape[:2]
        highest, factor = HIGHEST_QUALITY_INDEX, self._model.autoencoder.factor
        # Gains and their inverses are learned apart: their product is not one.
        scale = self._model.quantiser.gain[highest] * self._model.quantiser.inverse_gain[highest]
        latents = self._latents([picture]) * scale[:, None, None]
        pixels = self._pixels(latents, Header(self.fingerprint, highest, width, height, factor=factor), chosen)
        return Image.fromarray(pixels[0])

    @file_method
    def symbols(self, data: SdcSource) -> NDArray[np.int32]:
        """Return the decoded integers of a file, the same on every machine.

        They are int32 `[C, h, w]`, symbol plus predicted mean, in 1/16 of a quantiser step; of a palette's file,
        `Palettised.values`.
        Raises FormatError for damaged data, BundleError if another model wrote it, ImageError for too many pixels.
        """
        container = self._parsed(data, DECODED_MAX_PIXELS)
        return _mode_of(container).integers(self._model_of(container), container)

    def symbols_sha256(self, data: SdcSource) -> str:
        """Return the SHA-256 of `symbols` as little-endian int32, in hexadecimal."""
        return hashlib.sha256(np.ascontiguousarray(self.symbols(data), dtype="<i4").tobytes()).hexdigest()

    # Images and latents

    @hardware.explained_memory(SMALLER)
    def _latents(self, pictures: Sequence[Picture]) -> Tensor:
        """Return the latents of pictures of one size, float32 `[B, C, h, w]`."""
        pixels = np.stack([self._padded(picture) for picture in pictures])
        return windowed.encode(self._model.autoencoder, pixels, self.device)

    @hardware.explained_memory(SMALLER)
    def _pixels(self, latents: Tensor, header: Header, chosen: Rendering = WHOLE) -> NDArray[np.uint8]:
        """Return the pixels of latents `[B, C, h, w]`, uint8, cropped to the image."""
        return rendering.render(self._model.autoencoder, latents, header, chosen)

    def _padded(self, picture: Picture) -> NDArray[np.uint8]:
        """Return the visible pixels `[H, W, 3]`, padded to multiples of 4 latents.

        Edges are repeated.
        """
        rgb = picture.rgb if picture.alpha is None else smooth_hidden_colour(picture.rgb, picture.alpha)
        missing = [(0, padded_size(side, self._model.autoencoder.factor) - side) for side in rgb.shape[:2]]
        return np.pad(rgb, (*missing, (0, 0)), mode="edge") if any(after for _, after in missing) else rgb

    def _source(self, picture: Picture, latents: Tensor) -> Source:
        height, width = picture.rgb.shape[:2]
        return Source(latents, self._padded(picture), height, width)

    @hardware.explained_memory(SMALLER)
    def _decoded_latents(self, containers: Sequence[Container]) -> Tensor:
        """Return the latents `[B, C, h, w]` of files of one size, quality, prior and mode."""
        return _mode_of(containers[0]).decode(self._model_of(containers[0]), containers)

    # Files

    def _envelope(self, picture: Picture) -> Container:
        """Return the picture's file without its latents and quality."""
        height, width = picture.rgb.shape[:2]
        alpha = None if picture.alpha is None else pack_alpha(picture.alpha)
        header = Header(self.fingerprint, 0, width, height, factor=self._model.autoencoder.factor)
        return Container(header, (), alpha, picture.icc, picture.exif, picture.xmp)


def _quality_index(quality: float | None) -> int:
    return round(2 * (DEFAULT_QUALITY if quality is None else quality))


def _mode_of(container: Container) -> Mode:
    return MODES["latents" if container.palette is None else "palette"]


def _batch_key(container: Container) -> tuple[bytes, int, int, int, bool]:
    """Equal for files that can be decoded together."""
    header = container.header
    return header.fingerprint, header.width, header.height, header.quality_index, container.palette is None
