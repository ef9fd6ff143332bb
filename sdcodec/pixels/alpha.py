"""Alpha: taken off, packed without loss, and the colour under transparent pixels."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from sdcodec.errors import FormatError
from sdcodec.pixels.picture import Pixels


def pack_alpha(alpha: Pixels) -> bytes:
    """uint8 [H, W] -> a greyscale PNG without loss: 1 bit a pixel where all are 0 or 255, else 8 bits."""
    image = Image.fromarray(alpha)
    if bool(np.isin(alpha, (0, 255)).all()):
        image = image.convert("1", dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def unpack_alpha(data: bytes, width: int, height: int) -> Pixels:
    """The inverse of `pack_alpha`: uint8 [height, width]. Raises FormatError for anything but such a PNG."""
    try:
        image = PngImageFile(io.BytesIO(data))  # not Image.open: only PNG will do, and the size is checked here
        if image.size == (width, height) and image.mode in ("1", "L"):
            return np.array(image.convert("L"))
    except Exception as error:  # Pillow's decoders raise whatever comes their way
        raise FormatError("the alpha channel is damaged; get the file again") from error
    raise FormatError("the alpha channel does not have the size of the picture; get the file again")


def smooth_hidden_colour(rgb: Pixels, alpha: Pixels) -> Pixels:
    """Gives fully transparent pixels their neighbours' colour, so that nobody pays for what nobody sees.

    rgb [H, W, 3] and alpha [H, W] -> [H, W, 3]; pixels with alpha > 0 stay as they are.
    """
    visible = alpha > 0
    if not visible.any():
        return np.full_like(rgb, 128)
    return _push_pull(rgb, visible)


def _push_pull(rgb: Pixels, known: NDArray[np.bool_]) -> Pixels:
    """Fills unknown pixels from averages at half the size (Gortler et al. 1996, The Lumigraph, section 3.3)."""
    if known.all():
        return rgb
    height, width = known.shape
    padding = ((0, height % 2), (0, width % 2))
    count = np.pad(known, padding).astype(np.uint16)
    total = np.pad(rgb, (*padding, (0, 0))) * count[:, :, None]
    count = count[0::2] + count[1::2]
    count = count[:, 0::2] + count[:, 1::2]
    total = total[0::2] + total[1::2]
    total = total[:, 0::2] + total[:, 1::2]
    divisor = np.maximum(count, 1)[:, :, None]
    half = _push_pull(((total + divisor // 2) // divisor).astype(np.uint8), count > 0)
    size = (2 * half.shape[1], 2 * half.shape[0])
    enlarged = np.asarray(Image.fromarray(half).resize(size, Image.Resampling.BILINEAR))
    return np.where(known[:, :, None], rgb, enlarged[:height, :width])


def split_alpha(image: Image.Image) -> tuple[Image.Image, Pixels | None]:
    """Colour without alpha, in L, RGB, CMYK, LAB, YCbCr or HSV; and alpha [H, W] where some pixel is not opaque."""
    grey = image.mode in ("1", "L", "LA", "La")
    alpha: Pixels | None = None
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or (
        "transparency" in image.info and image.mode in ("1", "L", "P", "RGB")
    ):
        image = image.convert("LA" if grey else "RGBA")
        alpha = np.array(image.getchannel("A"))
        if alpha.min() == 255:
            alpha = None
    if grey:
        image = image.convert("L")
    elif image.mode in ("P", "RGBA", "RGBX"):
        image = image.convert("RGB")
    return image, alpha
