"""An autoencoder over pictures of any size: window by window, so that memory does not grow with the picture."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdcodec import tiling
from sdcodec.autoencoders.protocol import Autoencoder

# Side of what a network with a finite reach computes at once, without its margin; with `base` 24 megapixels need 1.5 GB.
WINDOW_PIXELS = 1280
# Side of what a network with global operations sees at once; a photograph of the size that these were trained on is whole.
BLENDED_PIXELS = 768
FADE_PIXELS = 64  # to both sides of where two such windows meet
GUARD_PIXELS = 32  # what they see beyond it


def encode(autoencoder: Autoencoder, pixels: NDArray[np.uint8], device: torch.device) -> Tensor:
    """uint8 `[B, H, W, 3]`, sides multiples of `factor` → float32 latents `[B, C, H/f, W/f]`."""
    f = autoencoder.factor
    height, width = pixels.shape[1] // f, pixels.shape[2] // f
    latents = torch.zeros(len(pixels), autoencoder.channels, height, width, device=device)

    def seen(top: int, bottom: int, left: int, right: int) -> Tensor:
        part = np.ascontiguousarray(pixels[:, f * top : f * bottom, f * left : f * right])
        images = torch.from_numpy(part).to(device).permute(0, 3, 1, 2).float().div_(255)
        return autoencoder.encode(images)

    if autoencoder.margin is not None:
        for w in tiling.windows(height, width, WINDOW_PIXELS // f, autoencoder.margin):
            own = seen(w.seen_top, w.seen_bottom, w.seen_left, w.seen_right)
            latents[:, :, w.top : w.bottom, w.left : w.right] = own[:, :, *_counted(w, 1)]
        return latents
    for rows in _fading(height, f):
        for columns in _fading(width, f):
            own = seen(rows.seen_start, rows.seen_end, columns.seen_start, columns.seen_end)
            place = slice(rows.seen_start, rows.seen_end), slice(columns.seen_start, columns.seen_end)
            latents[:, :, *place] += own * _weights(rows, columns, 1, device)
    return latents


def decode(autoencoder: Autoencoder, latents: Tensor, quality_index: int) -> NDArray[np.uint8]:
    """Float32 latents `[B, C, h, w]` and the quality in half steps → uint8 `[B, fh, fw, 3]`."""
    f = autoencoder.factor
    batch, _, height, width = latents.shape
    pixels = np.empty((batch, f * height, f * width, 3), np.uint8)
    if autoencoder.margin is None:
        _decode_blended(autoencoder, latents, quality_index, pixels)
        return pixels
    for w in tiling.windows(height, width, WINDOW_PIXELS // f, autoencoder.margin):
        seen = latents[:, :, w.seen_top : w.seen_bottom, w.seen_left : w.seen_right]
        images = autoencoder.decode(seen, quality_index)[:, :, *_counted(w, f)]
        pixels[:, f * w.top : f * w.bottom, f * w.left : f * w.right] = _levels(images)
    return pixels


def _decode_blended(autoencoder: Autoencoder, latents: Tensor, quality_index: int, pixels: NDArray[np.uint8]) -> None:
    """Fills `pixels` band by band: of one row of windows, what the next row fades into is carried over."""
    f = autoencoder.factor
    batch, _, height, width = latents.shape
    carried = torch.zeros(batch, 3, 0, f * width, device=latents.device)
    for rows in _fading(height, f):
        band = torch.zeros(batch, 3, f * (rows.seen_end - rows.seen_start), f * width, device=latents.device)
        band[:, :, : carried.shape[2]] = carried
        for columns in _fading(width, f):
            seen = latents[:, :, rows.seen_start : rows.seen_end, columns.seen_start : columns.seen_end]
            images = autoencoder.decode(seen, quality_index) * _weights(rows, columns, f, latents.device)
            band[:, :, :, f * columns.seen_start : f * columns.seen_end] += images
        overlap = 2 * f * (rows.seen_end - rows.end)  # the next row of windows begins so far above this one's end
        done, carried = band[:, :, : band.shape[2] - overlap], band[:, :, band.shape[2] - overlap :]
        top = f * rows.seen_start
        pixels[:, top : top + done.shape[2]] = _levels(done)


def _fading(length: int, factor: int) -> list[tiling.Span]:
    return tiling.fading_spans(length, BLENDED_PIXELS // factor, FADE_PIXELS // factor, GUARD_PIXELS // factor)


def _weights(rows: tiling.Span, columns: tiling.Span, scale: int, device: torch.device) -> Tensor:
    """`[scale * rows, scale * columns]`."""
    down, across = (torch.from_numpy(span.weights(scale)).to(device) for span in (rows, columns))
    return down[:, None] * across


def _counted(w: tiling.Window, scale: int) -> tuple[slice, slice]:
    """Rows and columns of a window's part that counts, within what it sees."""
    return (
        slice(scale * (w.top - w.seen_top), scale * (w.bottom - w.seen_top)),
        slice(scale * (w.left - w.seen_left), scale * (w.right - w.seen_left)),
    )


def _levels(images: Tensor) -> NDArray[np.uint8]:
    """`[B, 3, H, W]` in [0, 1] → uint8 `[B, H, W, 3]`."""
    return images.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
