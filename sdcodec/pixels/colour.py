"""Colour: conversion of ICC profiles to sRGB."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageCms


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
