"""Arrays as images: integers of 8 and 16 bits; other types are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdcodec.errors import ImageTypeError
from sdcodec.pixels.depth import reduced, warn_of_dark
from sdcodec.pixels.picture import Picture

SHAPES = "[H, W], [H, W, 3] or [H, W, 4]"


def from_array(array: NDArray[Any]) -> Picture:
    """Return the picture of a uint8 or uint16 array.

    Its shape is `[H, W]`, `[H, W, 1]`, `[H, W, 3]` or `[H, W, 4]`.
    Of uint16, 65535 becomes 255. Raises ImageTypeError for other arrays.
    """
    name = f"array {array.dtype} {list(array.shape)}"
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ImageTypeError(f"{name}: not an image; give uint8 of shape {SHAPES}")
    if array.dtype.kind == "f":
        raise ImageTypeError(
            f"{name}: floating-point values have no agreed white; give uint8, for values 0..1 by "
            "(array * 255).round().clip(0, 255).astype(numpy.uint8)"
        )
    if array.dtype.kind != "u" or array.dtype.itemsize > 2:
        raise ImageTypeError(f"{name}: not an image; give uint8 (or uint16 with white at 65535) of shape {SHAPES}")
    planes = array.reshape(*array.shape[:2], -1)
    if array.dtype.itemsize == 2:
        warn_of_dark(planes[:, :, :3], name)
        planes = reduced(planes)
    alpha = None
    if planes.shape[2] == 4 and planes[:, :, 3].min() < 255:
        alpha = planes[:, :, 3].copy()
    colour = np.repeat(planes, 3, axis=2) if planes.shape[2] == 1 else planes[:, :, :3].copy()
    return Picture(rgb=colour, alpha=alpha)


def refuse_tensor(source: object) -> None:
    """Raise ImageTypeError for a PyTorch tensor: its axes and white are unknown."""
    if type(source).__module__.split(".")[0] == "torch":
        raise ImageTypeError(
            f"{type(source).__name__}: a PyTorch tensor is not read as an image; give a uint8 array, for a tensor "
            "[3, H, W] with values 0..1 by tensor.mul(255).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()"
        )
