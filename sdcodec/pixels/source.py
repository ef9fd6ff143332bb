"""Input: PIL images, paths, bytes, files and arrays as upright 8-bit pictures."""

from __future__ import annotations

import importlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from sdcodec.errors import ImageError, OptionError, warn
from sdcodec.pixels.alpha import split_alpha
from sdcodec.pixels.colour import eight_bit, to_srgb
from sdcodec.pixels.metadata import kept_exif, kept_xmp, upright
from sdcodec.pixels.picture import ImageSource, Picture

DEFAULT_MAX_PIXELS = 2**28
METADATA_KINDS = frozenset({"icc", "exif", "xmp"})

SDC_MAGIC = b"\x89SDC"
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}


def read_picture(
    source: ImageSource,
    *,
    metadata: frozenset[str] = frozenset(),
    max_pixels: int = DEFAULT_MAX_PIXELS,
    frame: int | None = None,
) -> Picture:
    """Read an image and convert it to upright 8-bit sRGB.

    source: a PIL image, a path, the bytes of an image file, a binary file open at its beginning, or a uint8 array
        [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]. Any Pillow mode but floating point.
    metadata: kinds to keep, out of "icc", "exif" and "xmp". With "icc" the values of an RGB image stay in its
        profile;
        otherwise, and for CMYK and grey profiles always, they are converted to sRGB.
    max_pixels: an image of more pixels is refused before any is decoded.
    frame: frame or page of the file, counted from 0. None: the one that the file opens with, with a warning if there
        are others.

    Alpha that is opaque everywhere is dropped. Raises ImageError for data that is no image, is damaged or too large,
    and OptionError for unknown metadata or a frame that does not exist. Issues SdcodecWarning if the result may
    differ from the expected one. The source is not changed, except for the frame of a PIL image.
    """
    if unknown := metadata - METADATA_KINDS:
        raise OptionError(f"unknown metadata {', '.join(sorted(unknown))}; choose from icc, exif, xmp")
    if isinstance(source, np.ndarray):
        _check_frame(frame, 1, "array")
        return _from_array(source, max_pixels)
    name = _name_of(source)
    with _decoding(name), _opened(source, name) as image:
        _check_size(image.width, image.height, max_pixels, name)
        if _selects_frame(image, frame, name):
            _check_size(image.width, image.height, max_pixels, name)
        image.load()
        colour, alpha = split_alpha(eight_bit(upright(image), name))
        colour, icc = to_srgb(colour, image.info.get("icc_profile"), keep="icc" in metadata)
        return Picture(
            rgb=np.array(colour),
            alpha=alpha,
            icc=icc,
            exif=kept_exif(image, name) if "exif" in metadata else None,
            xmp=kept_xmp(image) if "xmp" in metadata else None,
        )


def _from_array(array: NDArray[Any], max_pixels: int) -> Picture:
    name = f"array {array.dtype} {list(array.shape)}"
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ImageError(f"{name}: not an image; give uint8 of shape [H, W], [H, W, 3] or [H, W, 4]")
    _check_size(array.shape[1], array.shape[0], max_pixels, name)
    planes = array.reshape(*array.shape[:2], -1)
    alpha = None
    if planes.shape[2] == 4 and planes[:, :, 3].min() < 255:
        alpha = planes[:, :, 3].copy()
    colour = np.repeat(planes, 3, axis=2) if planes.shape[2] == 1 else planes[:, :, :3].copy()
    return Picture(rgb=colour, alpha=alpha)


def _name_of(source: object) -> str:
    if isinstance(source, Image.Image):
        return os.fspath(getattr(source, "filename", "")) or f"{source.mode} image"
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    if isinstance(source, bytes):
        return "image data"
    if hasattr(source, "read"):
        name = getattr(source, "name", "")
        return name if isinstance(name, str) and name else "image data"
    raise ImageError(f"{type(source).__name__} is no image; give a PIL image, a path, bytes or a uint8 array")


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Turn the decoders' errors over a bad file into an ImageError with its name."""
    try:
        yield
    except (ImageError, OptionError):
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{name}: more pixels than Pillow allows; raise PIL.Image.MAX_IMAGE_PIXELS to read it"
        ) from error
    except MemoryError as error:
        raise ImageError(f"{name}: too large for the memory of this machine; make the image smaller") from error
    except Exception as error:  # decoders raise SyntaxError, struct.error, zlib.error and more over damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{name}: damaged or unsupported image ({reason}); check that it opens elsewhere") from error


@contextmanager
def _opened(source: Image.Image | str | os.PathLike[str] | bytes | BinaryIO, name: str) -> Iterator[Image.Image]:
    """Open the image with its header read, its pixels not yet decoded.

    Files opened here are closed here.
    """
    if isinstance(source, Image.Image):
        yield source
    elif isinstance(source, (str, os.PathLike)):
        try:
            if os.path.isdir(source):
                raise ImageError(f"{name}: is a folder; give the files in it")
            file = open(source, "rb")  # noqa: SIM115 (closed below)
        except FileNotFoundError as error:
            raise ImageError(f"{name}: no such file") from error
        except (OSError, ValueError) as error:
            raise ImageError(f"{name}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
        with file, _identified(file, name) as image:
            yield image
    else:
        data = source if isinstance(source, bytes) else source.read()
        with _identified(io.BytesIO(data), name) as image:
            yield image


def _identified(file: BinaryIO, name: str) -> Image.Image:
    """Open the image, with an error for each kind of file that Pillow cannot read."""
    try:
        image = Image.open(file)
    except PIL.UnidentifiedImageError as error:
        file.seek(0)
        head = file.read(16)
        file.seek(0)
        if not head:
            raise ImageError(f"{name}: the file is empty") from error
        if head.startswith(SDC_MAGIC):
            raise ImageError(f"{name}: an .sdc file already; use decode to get the picture back") from error
        if head[4:8] == b"ftyp" and head[8:12] in HEIC_BRANDS:
            return _open_heic(file, name)
        raise ImageError(f"{name}: not an image, or of a kind that Pillow cannot read") from error
    if image.format in ("EPS", "WMF"):
        # Pillow has other programs draw these, and a drawing has no pixels to compress.
        raise ImageError(f"{name}: {image.format} is a drawing, not pixels; export it as PNG first")
    return image


def _open_heic(file: BinaryIO, name: str) -> Image.Image:
    try:
        pillow_heif = importlib.import_module("pillow_heif")
    except ImportError as error:
        raise ImageError(f"{name}: HEIC images need pillow-heif; install it with: pip install pillow-heif") from error
    pillow_heif.register_heif_opener()
    return Image.open(file)


def _selects_frame(image: Image.Image, frame: int | None, name: str) -> bool:
    """Go to the frame; without a choice, warn if there are several. Return whether the frame changed."""
    count = 1 if image.format == "PSD" else getattr(image, "n_frames", 1)  # a PSD opens with its layers merged
    if frame is None:
        if count > 1:
            warn(f"has {count} frames; frame {image.tell()} is read; choose another with --frame N (frame)", name)
        return False
    _check_frame(frame, count, name)
    if frame == image.tell() or count == 1:
        return False
    image.seek(frame)
    return True


def _check_frame(frame: int | None, count: int, name: str) -> None:
    if frame is not None and not 0 <= frame < count:
        raise OptionError(f"{name}: frame {frame} does not exist; the file has {count}, counted from 0")


def _check_size(width: int, height: int, max_pixels: int, name: str) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"{name}: the image has no pixels")
    if width * height > max_pixels:
        raise ImageError(
            f"{name}: {width} x {height} are {width * height} pixels, above the limit of {max_pixels}; "
            "raise --max-pixels (max_pixels)"
        )
