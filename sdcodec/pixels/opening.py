"""Opening: PIL images, paths, bytes and files, identified by their content."""

from __future__ import annotations

import importlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

import PIL
from PIL import Image

from sdcodec.errors import ImageError, ImageTypeError, OptionError, SdcodecWarning, warn
from sdcodec.pixels import boxes, jpeg, png, png_mending
from sdcodec.sources import rewound, source_name

BYTES_PER_PIXEL, FILL = 8, 1 << 16  # zeros behind a file that is cut: enough for uncompressed pixels
SDC_MAGIC = b"\x89SDC"
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}


class Plugin(NamedTuple):
    """An optional reader of Pillow; without `register`, its import is enough."""

    kind: str
    package: str
    module: str
    register: str | None


HEIC = Plugin("HEIC", "pillow-heif", "pillow_heif", "register_heif_opener")
JXL = Plugin("JPEG XL", "pillow-jxl-plugin", "pillow_jxl", None)
JXL_MAGICS = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")  # a bare codestream, and a container


@dataclass(frozen=True, eq=False)
class Opened:
    """An open image, and the bytes of its file if they are examined beside Pillow."""

    image: Image.Image
    data: bytes | None


def name_of(source: object) -> str:
    if isinstance(source, Image.Image):
        return os.fspath(getattr(source, "filename", "")) or f"{source.mode} image"
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    if isinstance(source, (bytes, bytearray, memoryview)) or hasattr(source, "read"):
        return source_name(source) or "image data"
    raise ImageTypeError(
        f"{type(source).__name__} is no image; give a PIL image, a path, bytes, a binary file or a uint8 array"
    )


@contextmanager
def decoding(name: str, max_pixels: int) -> Iterator[None]:
    """Turn the decoders' errors over a bad file into an ImageError with its name.

    max_pixels: limit of the reader, which is to be named if it is lower than Pillow's own.
    """
    try:
        yield
    except (ImageError, OptionError, SdcodecWarning):
        raise
    except Image.DecompressionBombError as error:
        pillow = Image.MAX_IMAGE_PIXELS  # images up to twice its value give a warning, larger ones this error
        if pillow is None or max_pixels <= 2 * pillow:
            raise ImageError(
                f"{name}: the image is above the limit of {max_pixels} pixels; raise --max-pixels (max_pixels)"
            ) from error
        raise ImageError(
            f"{name}: more pixels than Pillow allows; raise PIL.Image.MAX_IMAGE_PIXELS to read it"
        ) from error
    except MemoryError as error:
        raise ImageError(f"{name}: too large for the memory of this machine; make the image smaller") from error
    except Exception as error:  # decoders raise SyntaxError, struct.error, zlib.error and more over damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{name}: damaged or unsupported image ({reason}); check that it opens elsewhere") from error


@contextmanager
def opened(
    source: Image.Image | str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO,
    name: str,
    *,
    allow_truncated: bool,
    max_pixels: int,
) -> Iterator[Opened]:
    """Open the image with its header read, its pixels not yet decoded.

    Damage that leaves all pixels is mended with a warning; see `png_mending` and `jpeg`. Files opened here are closed
    here.
    """
    if isinstance(source, Image.Image):
        yield Opened(source, _bytes_of(source))
    elif isinstance(source, (str, os.PathLike)):
        try:
            if os.path.isdir(source):
                raise ImageError(f"{name}: is a folder; give the files in it")
            file = open(source, "rb")  # noqa: SIM115 (closed below)
        except FileNotFoundError as error:
            raise ImageError(f"{name}: no such file") from error
        except (OSError, ValueError) as error:
            raise ImageError(f"{name}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
        with file:
            yield from _identified(file, name, allow_truncated, max_pixels)
    else:
        data = bytes(source) if isinstance(source, (bytes, bytearray, memoryview)) else _file_bytes(source, name)
        yield from _identified(io.BytesIO(data), name, allow_truncated, max_pixels)


def _file_bytes(file: BinaryIO, name: str) -> bytes:
    try:
        data = rewound(file)
    except (OSError, ValueError) as error:  # ValueError: it is closed
        raise ImageError(f"{name}: cannot be read ({error}); open it for binary reading") from error
    if not isinstance(data, bytes):
        raise ImageTypeError(f"{name}: gives {type(data).__name__}; open it for binary reading ('rb')")
    return data


def _identified(file: BinaryIO, name: str, allow_truncated: bool, max_pixels: int) -> Iterator[Opened]:
    """Open a file by its content, and close the image afterwards."""
    head = file.read(16)
    file.seek(0)
    data = file.read() if _is_examined(head) or allow_truncated else None
    if data is not None and head.startswith(png.SIGNATURE):
        data = png_mending.mended(data, name, allow_truncated=allow_truncated, max_pixels=max_pixels)
    elif data is not None and head.startswith(jpeg.SIGNATURE):
        data = jpeg.mended(data, name, allow_truncated=allow_truncated, max_pixels=max_pixels)
    elif data is not None and allow_truncated:
        data = _filled(data, head, name, max_pixels)
    with _image_in(file if data is None else io.BytesIO(data), head, name) as image:
        yield Opened(image, data)


def _filled(data: bytes, head: bytes, name: str, max_pixels: int) -> bytes:
    """Return the file, with zeros behind it if Pillow finds it cut."""
    with _image_in(io.BytesIO(data), head, name) as image:
        if image.width * image.height > max_pixels:
            return data  # the reader refuses it
        try:
            image.load()
        except Exception:  # decoders raise errors of many classes
            warn("the file is cut short; the missing part is filled with zeros", name)
            return data + bytes(image.width * image.height * BYTES_PER_PIXEL + FILL)
    return data


def _is_examined(head: bytes) -> bool:
    """Return whether the bytes of such a file are examined beside Pillow."""
    return head.startswith((png.SIGNATURE, jpeg.SIGNATURE)) or head[4:8] == boxes.FILE_TYPE


def _bytes_of(image: Image.Image) -> bytes | None:
    """Return the bytes of the file of an image, if they are examined.

    An image that is loaded already gives None.
    """
    file = getattr(image, "fp", None)
    if file is None or not getattr(image, "tile", None):
        return None
    position = file.tell()
    file.seek(0)
    head = file.read(16)
    file.seek(0)
    data = file.read() if _is_examined(head) else None
    file.seek(position)
    return data


def _image_in(file: BinaryIO, head: bytes, name: str) -> Image.Image:
    """Open the image, with an error for each kind of file that Pillow cannot read."""
    if head.startswith(SDC_MAGIC):  # also if Pillow has a plugin for it
        raise ImageError(f"{name}: an .sdc file already; use decode to get the picture back")
    try:
        image = Image.open(file)
    except PIL.UnidentifiedImageError as error:
        if not head:
            raise ImageError(f"{name}: the file is empty") from error
        if head[4:8] == boxes.FILE_TYPE and head[8:12] in HEIC_BRANDS:
            return _open_with(HEIC, file, name)
        if head.startswith(JXL_MAGICS):
            return _open_with(JXL, file, name)
        if head.startswith((png.SIGNATURE, jpeg.SIGNATURE)):
            raise ImageError(f"{name}: the header of the image is damaged or cut; get the file again") from error
        raise ImageError(f"{name}: not an image, or of a kind that Pillow cannot read") from error
    if image.format in ("EPS", "WMF"):
        # Pillow has other programs draw these, and a drawing has no pixels to compress.
        raise ImageError(f"{name}: {image.format} is a drawing, not pixels; export it as PNG first")
    return image


def _open_with(plugin: Plugin, file: BinaryIO, name: str) -> Image.Image:
    try:
        module = importlib.import_module(plugin.module)
    except ImportError as error:
        raise ImageError(
            f"{name}: {plugin.kind} images need {plugin.package}; install it with: pip install {plugin.package}"
        ) from error
    if plugin.register is not None:
        getattr(module, plugin.register)()
    file.seek(0)
    return Image.open(file)
