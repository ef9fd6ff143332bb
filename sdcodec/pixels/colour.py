"""Colour: conversion to sRGB from ICC profiles, code points and gamma."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from sdcodec.errors import warn
from sdcodec.pixels import boxes, coded, png


def coded_colour(image: Image.Image, data: bytes | None) -> tuple[coded.CodedColour | None, bool]:
    """Return the colour of a file beside its profile, and whether it comes first.

    data: the bytes of the file, or None. Colour that is sRGB already gives None.
    """
    found, overrides = _stated(image, data)
    return (None if found is not None and found.is_srgb else found), overrides


def _stated(image: Image.Image, data: bytes | None) -> tuple[coded.CodedColour | None, bool]:
    if data is not None and data[4:8] == boxes.FILE_TYPE:
        points = boxes.code_points(data)
        # Decoders of AVIF and HEIF give RGB in full range.
        return (None if points is None else coded.from_code_points(points._replace(full_range=1))), False
    facts = png.facts_of(data) if data is not None and data.startswith(png.SIGNATURE) else None
    if facts is not None:
        points_of_png = facts.code_points
        if points_of_png is not None:
            return coded.from_code_points(points_of_png), True
        if facts.states_gamma:
            return coded.from_gamma(facts.gamma, facts.chromaticities), False
    elif image.format == "PNG" and "srgb" not in image.info and {"gamma", "chromaticity"} & set(image.info):
        return coded.from_gamma(image.info.get("gamma") or None, _eight(image.info.get("chromaticity"))), False
    return None, False


def _eight(chromaticities: tuple[float, ...] | None) -> tuple[float, ...] | None:
    """Return Pillow's chromaticities, white first, with white last."""
    return None if chromaticities is None else (*chromaticities[2:8], *chromaticities[:2])


def from_coded(
    colour: Image.Image, deep: NDArray[np.uint16] | None, stated: coded.CodedColour, name: str
) -> Image.Image:
    """Convert to sRGB from stated colour, with a warning if it is HDR.

    deep: the same samples in 16 bits, if they are known.
    """
    if stated.is_hdr:
        kind = "PQ" if stated.transfer == coded.PQ else "HLG"
        warn(
            f"its colours are HDR ({kind}); they are tone-mapped by the EETF of ITU-R BT.2390 "
            f"with {coded.REFERENCE_WHITE:g} cd/m2 as white",
            name,
        )
    values = np.asarray(colour.convert("RGB")) if deep is None else deep
    return Image.fromarray(coded.converted(values, stated))


def to_srgb(colour: Image.Image, profile: bytes | None, *, keep: bool) -> tuple[Image.Image, bytes | None]:
    """Convert to sRGB; or, to keep an RGB profile, return the pixels and the profile.

    A profile that cannot be read, or is for another kind of pixels, is ignored, as browsers do.
    """
    if not profile:
        return colour.convert("RGB"), None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        if space == "RGB" and colour.mode == "L":
            colour = colour.convert("RGB")
        if {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}.get(space) != colour.mode:
            return colour.convert("RGB"), None
        if keep and space == "RGB":
            return colour, profile
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            colour.mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        if space == "RGB" and _changes_nothing(transform):
            return colour, None
        converted = ImageCms.applyTransform(colour, transform)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return colour.convert("RGB"), None
    return converted if converted is not None else colour.convert("RGB"), None


def _changes_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    """Return whether an RGB transform moves no colour of a 6x6x6 grid by more than 1.

    All variants of sRGB pass.
    """
    levels = np.arange(0, 256, 51, dtype=np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    moved = np.asarray(ImageCms.applyTransform(Image.fromarray(grid), transform))
    return bool(np.abs(moved.astype(np.int16) - grid).max() <= 1)
