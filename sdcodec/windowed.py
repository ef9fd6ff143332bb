"""Autoencoder over images of any size, window by window, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdcodec import blending, tiling
from sdcodec.autoencoders.protocol import Autoencoder, ReducedAutoencoder
from sdcodec.blending import Span

# Side of a window, without its margin, of a network with a finite reach; with `base` 24 megapixels need 1.5 GB.
WINDOW_PIXELS = 1280
# Side of a window of a network with global operations; an image of the size that these were trained on is seen whole.
BLENDED_PIXELS = 768
FADE_PIXELS = 64  # on both sides of the middle between two such windows
GUARD_PIXELS = 32  # seen beyond the fade, with weight 0


def encode(autoencoder: Autoencoder, pixels: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Encode uint8 `[B, H, W, 3]`, sides multiples of `factor`.

    Returns float32 latents `[B, C, H/f, W/f]`.
    """
    f = autoencoder.factor
    height, width = pixels.shape[1] // f, pixels.shape[2] // f

    def latents_of(top: int, bottom: int, left: int, right: int) -> Tensor:
        part = np.ascontiguousarray(pixels[:, f * top : f * bottom, f * left : f * right])
        images = torch.from_numpy(part).to(device).permute(0, 3, 1, 2).float().div_(255)
        return autoencoder.encode(images)

    if autoencoder.margin is None:
        rows, columns = _spans(height, f), _spans(width, f)
        return blending.blend(rows, columns, 1, lambda r, c: latents_of(r.start, r.end, c.start, c.end))
    latents = torch.zeros(len(pixels), autoencoder.channels, height, width, dtype=torch.float32, device=device)
    for w in tiling.windows(height, width, WINDOW_PIXELS // f, autoencoder.margin):
        seen = latents_of(w.seen_top, w.seen_bottom, w.seen_left, w.seen_right)
        latents[:, :, w.top : w.bottom, w.left : w.right] = seen[:, :, *_counted(w, 1)]
    return latents


def decode(autoencoder: Autoencoder, latents: Tensor, quality_index: int) -> NDArray[np.uint8]:
    """Decode float32 latents `[B, C, h, w]` at a quality to uint8 `[B, fh, fw, 3]`."""
    return _decoded(autoencoder, latents, autoencoder.factor, lambda part: autoencoder.decode(part, quality_index))


def decode_reduced(
    autoencoder: ReducedAutoencoder, latents: Tensor, quality_index: int, scale: int
) -> NDArray[np.uint8]:
    """Decode float32 latents `[B, C, h, w]` to 1/`scale` of the size.

    `scale` is one of the autoencoder's. Returns uint8 `[B, fh/scale, fw/scale, 3]`.
    """
    side = autoencoder.factor // scale
    return _decoded(autoencoder, latents, side, lambda part: autoencoder.decode_reduced(part, quality_index, scale))


def _decoded(
    autoencoder: Autoencoder, latents: Tensor, side: int, images_of: Callable[[Tensor], Tensor]
) -> NDArray[np.uint8]:
    """Decode window by window.

    `images_of` returns `side` x `side` pixels per latent.
    """
    f = autoencoder.factor
    batch, _, height, width = latents.shape
    pixels = np.empty((batch, side * height, side * width, 3), np.uint8)
    if autoencoder.margin is None:

        def window(row: Span, column: Span) -> Tensor:
            return images_of(latents[:, :, row.start : row.end, column.start : column.end])

        for top, band in blending.blended(_spans(height, f), _spans(width, f), side, window):
            pixels[:, top : top + band.shape[2]] = _levels(band)
        return pixels
    for w in tiling.windows(height, width, WINDOW_PIXELS // f, autoencoder.margin):
        seen = latents[:, :, w.seen_top : w.seen_bottom, w.seen_left : w.seen_right]
        images = images_of(seen)[:, :, *_counted(w, side)]
        pixels[:, side * w.top : side * w.bottom, side * w.left : side * w.right] = _levels(images)
    return pixels


def _spans(length: int, factor: int) -> list[Span]:
    overlap = 2 * (FADE_PIXELS + GUARD_PIXELS) // factor
    return blending.spans(length, BLENDED_PIXELS // factor, overlap, GUARD_PIXELS // factor)


def _counted(w: tiling.Window, scale: int) -> tuple[slice, slice]:
    """Return rows and columns of a window's counted part within its seen part."""
    return (
        slice(scale * (w.top - w.seen_top), scale * (w.bottom - w.seen_top)),
        slice(scale * (w.left - w.seen_left), scale * (w.right - w.seen_left)),
    )


def _levels(images: Tensor) -> NDArray[np.uint8]:
    """Return `[B, 3, H, W]` in [0, 1] as uint8 `[B, H, W, 3]`."""
    return images.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
