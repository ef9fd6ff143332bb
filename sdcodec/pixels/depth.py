"""Depth and transparency: samples of any number of bits as 8-bit colour and alpha."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from sdcodec.errors import ImageError, warn
from sdcodec.pixels import boxes, png
from sdcodec.pixels.alpha import split_alpha
from sdcodec.pixels.picture import Pixels

WHITE = 65535  # the largest value of 16 bits
DARK = 4095  # 16-bit values that do not exceed it were probably recorded with 12 bits or fewer
BITS_PER_SAMPLE, COMPRESSION, PHOTOMETRIC, SUBSAMPLING, PLANES, SAMPLE_FORMAT = 258, 259, 262, 530, 284, 339
WHITE_IS_ZERO, YCBCR, SEPARATE, UNCOMPRESSED, SIGNED = 0, 6, 2, 1, 2


@dataclass(frozen=True, eq=False)
class Samples:
    """Decoded samples.

    colour: 8 bits, in L, RGB, CMYK, LAB, YCbCr or HSV; alpha: uint8 `[H, W]`, or None if every pixel is opaque.
    deep: the colour of a PNG in 16 bits, uint16 `[H, W, 3]`, or None.
    """

    colour: Image.Image
    alpha: Pixels | None
    deep: NDArray[np.uint16] | None = None


def reduced(values: NDArray[Any], white: int = WHITE) -> Pixels:
    """Scale integers so that `white` becomes 255, rounded."""
    return ((values.astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8)


def samples_of(image: Image.Image, data: bytes | None, name: str) -> Samples:
    """Return the samples of an image whose pixels are loaded.

    data: the bytes of the file, if they are known and Pillow does not give all of its content.
    """
    facts = png.facts_of(data) if data and data.startswith(png.SIGNATURE) else None
    if data is not None and facts is not None:
        # A file with several frames is left to Pillow, whose image is the chosen frame.
        deep = None if getattr(image, "n_frames", 1) > 1 else png.sixteen_bit(data, facts)
        if deep is not None:
            return _deep_samples(deep, facts, name)
        if facts.transparent is not None and facts.colour_type != png.PALETTE:
            return _keyed_samples(image, facts, name)
    if isinstance(image, TiffImageFile):
        _check_tiff(image, name)
    if data is not None and image.format == "AVIF":
        # Pillow does not apply the crop of the primary image.
        image = image.crop(boxes.clean_aperture(data, image.width, image.height))
    colour, alpha = split_alpha(eight_bit(image, name))
    return Samples(colour, alpha)


def eight_bit(image: Image.Image, name: str) -> Image.Image:
    """Scale modes of more than 8 bits per sample so that white becomes 255.

    Other modes stay as they are.
    """
    if image.mode == "F":
        raise ImageError(f"{name}: floating-point pixels have no agreed white; convert the image to 8 or 16 bits first")
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > WHITE:
        raise ImageError(
            f"{name}: pixel values beyond 0..65535 have no agreed white; convert the image to 8 or 16 bits"
        )
    white, inverted = WHITE, False
    if isinstance(image, TiffImageFile):
        white = (1 << image.tag_v2.get(BITS_PER_SAMPLE, (16,))[0]) - 1
        inverted = image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO
    result = Image.fromarray(reduced(white - values if inverted else values, white))
    if white == WHITE and not inverted:
        warn_of_dark(values, name)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):  # a PNG's one transparent grey, in 16 bits
        result.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return result


def warn_of_dark(values: NDArray[Any], name: str) -> None:
    """Warn if 16-bit values are so small that the image becomes nearly black."""
    largest = int(values.max())
    if 0 < largest <= DARK:
        warn(
            f"its 16-bit values do not exceed {largest} of 65535, so the image is nearly black; "
            "scale the values if their white is lower",
            name,
        )


def _deep_samples(values: NDArray[np.uint16], facts: png.PngFacts, name: str) -> Samples:
    """Return the samples of a 16-bit PNG of RGB, RGBA or grey with alpha."""
    alpha: Pixels | None = None
    if facts.colour_type in (png.GREY_ALPHA, png.RGBA):
        alpha, values = reduced(values[:, :, -1]), values[:, :, :-1]
    elif facts.transparent is not None:
        alpha = np.asarray(png.transparent_colour(values, facts.transparent))
    warn_of_dark(values, name)
    colour = Image.fromarray(reduced(values).squeeze(axis=2) if values.shape[2] == 1 else reduced(values))
    return Samples(colour, _unless_opaque(alpha), np.broadcast_to(values, (*values.shape[:2], 3)))


def _keyed_samples(image: Image.Image, facts: png.PngFacts, name: str) -> Samples:
    """Return the samples of a grey or RGB PNG with one transparent colour."""
    assert facts.transparent is not None
    if facts.depth == 16:  # grey
        values = np.asarray(image).astype(np.uint16)
        key = facts.transparent
        warn_of_dark(values, name)
        colour = Image.fromarray(reduced(values))
    else:
        scale = 255 // ((1 << facts.depth) - 1)  # Pillow gives grey of 1, 2 and 4 bits in 8
        key = tuple(value * scale for value in facts.transparent)
        colour = Image.fromarray(np.asarray(image.convert("L" if facts.colour_type == png.GREY else "RGB")))
        values = np.asarray(colour).astype(np.uint16)
    values = values.reshape(*values.shape[:2], -1)
    return Samples(colour, _unless_opaque(np.asarray(png.transparent_colour(values, key))))


def _unless_opaque(alpha: Pixels | None) -> Pixels | None:
    return None if alpha is None or alpha.min() == 255 else np.array(alpha)


def _check_tiff(image: TiffImageFile, name: str) -> None:
    """Refuse the kinds of TIFF whose pixels Pillow gives wrongly or without a white."""
    tags = image.tag_v2
    bits = max(tags.get(BITS_PER_SAMPLE, (1,)))
    signed = SIGNED in tags.get(SAMPLE_FORMAT, ())
    if signed or (image.mode == "I" and bits > 16):
        raise ImageError(
            f"{name}: {bits}-bit {'signed ' if signed else ''}samples have no agreed white; "
            "convert the image to unsigned 8 or 16 bits first"
        )
    if tags.get(PLANES, 1) == SEPARATE and len(image.getbands()) > 1:
        uncompressed = tags.get(COMPRESSION, UNCOMPRESSED) == UNCOMPRESSED
        if (bits > 8 and uncompressed) or image.mode in ("LA", "La"):
            raise ImageError(
                f"{name}: TIFF of {bits} bits with {len(image.getbands())} separate planes is not supported; "
                "save it with interleaved samples"
            )
    if (
        tags.get(PHOTOMETRIC) == YCBCR
        and tags.get(COMPRESSION, UNCOMPRESSED) == UNCOMPRESSED
        and tuple(tags.get(SUBSAMPLING, (2, 2))) != (1, 1)
    ):
        raise ImageError(f"{name}: uncompressed TIFF with subsampled YCbCr is not supported; save it as RGB")
