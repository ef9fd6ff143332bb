"""Alpha: its separation, lossless packing, and colour under transparent pixels."""

from __future__ import annotations

import io
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from sdcodec.errors import FormatError
from sdcodec.pixels.picture import Pixels
from sdcodec.pixels.png import SIGNATURE, chunk_bytes, chunks_of

CHUNK_BYTES = 512  # of the largest PNG, for each chunk of it; encoders write a few kilobytes into one


def pack_alpha(alpha: Pixels) -> bytes:
    """Pack uint8 [H, W] as a greyscale PNG without loss.

    It has 1 bit per pixel if all values are 0 or 255, else 8.
    """
    image = Image.fromarray(alpha)
    if bool(np.isin(alpha, (0, 255)).all()):
        image = image.convert("1", dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def unpack_alpha(data: bytes, width: int, height: int) -> Pixels:
    """Unpack `pack_alpha`'s PNG to uint8 [height, width].

    Raises FormatError for any other data.
    """
    try:
        # Not Image.open: only PNG will do, and the size is checked here.
        image = PngImageFile(io.BytesIO(_pixels_alone(data, most_alpha_bytes(width, height))))
        if image.size == (width, height) and image.mode in ("1", "L"):
            return np.array(image.convert("L"))
    except Exception as error:  # Pillow's decoders raise errors of many classes
        raise FormatError("the alpha channel is damaged; get the file again") from error
    raise FormatError("the alpha channel does not have the size of the picture; get the file again")


def most_alpha_bytes(width: int, height: int) -> int:
    """Return the largest size of an alpha channel in bytes, beyond any honest PNG's."""
    return width * height * 65 // 64 + 4 * height + 4096


def _pixels_alone(data: bytes, most_bytes: int) -> bytes:
    """Return a PNG with one chunk of pixels, and without texts and profiles.

    Texts may unpack to hundreds of megabytes. Raises FormatError for more than `most_bytes` bytes, or a chunk for fewer
    than CHUNK_BYTES of these: it takes as long as many pixels, however short it is.
    """
    if len(data) > most_bytes or not data.startswith(SIGNATURE):
        raise FormatError("no PNG of this size")
    most_chunks = most_bytes // CHUNK_BYTES
    chunks = list(islice(chunks_of(data), most_chunks + 1))
    if len(chunks) > most_chunks:
        raise FormatError("too many chunks")
    chunks = [chunk for chunk in chunks if chunk.kind in (b"IHDR", b"IDAT")]
    if not all(chunk.intact for chunk in chunks):
        raise FormatError("a chunk does not match its checksum")
    joined = [b"".join(chunk.data for chunk in chunks if chunk.kind == kind) for kind in (b"IHDR", b"IDAT")]
    return SIGNATURE + chunk_bytes(b"IHDR", joined[0]) + chunk_bytes(b"IDAT", joined[1]) + chunk_bytes(b"IEND", b"")


def smooth_hidden_colour(rgb: Pixels, alpha: Pixels) -> Pixels:
    """Give fully transparent pixels their neighbours' colour, which saves bits.

    rgb [H, W, 3] and alpha [H, W] -> [H, W, 3]; pixels with alpha > 0 stay as they are.
    """
    visible = alpha > 0
    if not visible.any():
        return np.full_like(rgb, 128)
    return _push_pull(rgb, visible)


def _push_pull(rgb: Pixels, known: NDArray[np.bool_]) -> Pixels:
    """Fill unknown pixels from averages at half the size.

    Gortler et al. 1996, The Lumigraph, section 3.3.
    """
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
    """Split an image into colour and alpha.

    Colour is in L, RGB, CMYK, LAB, YCbCr or HSV; alpha is [H, W], or None if every pixel is opaque.
    """
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
