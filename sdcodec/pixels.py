"""Images in and out: whatever the user has becomes 8-bit sRGB with optional alpha and metadata, and back again."""

from __future__ import annotations

import importlib
import io
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps
from PIL.ExifTags import Base as ExifTag
from PIL.PngImagePlugin import PngImageFile, PngInfo

from sdcodec.errors import FormatError, ImageError, OptionError

Pixels = NDArray[np.uint8]
ImageSource = Image.Image | str | os.PathLike[str] | bytes | BinaryIO | Pixels

DEFAULT_MAX_PIXELS = 2**28
METADATA_KINDS = frozenset({"icc", "exif", "xmp"})

XMP_TAG = 700
EXIF_PREFIX = b"Exif\0\0"
SDC_MAGIC = b"\x89SDC"
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}

# What a TIFF says about its own layout must not travel with the picture; what it says about the photograph may.
TIFF_TAGS_KEPT = (
    ExifTag.ImageDescription,
    ExifTag.Make,
    ExifTag.Model,
    ExifTag.Software,
    ExifTag.DateTime,
    ExifTag.Artist,
    ExifTag.Copyright,
)

# Names of the formats that decoded pictures can be saved in: Pillow's name and its options.
# Lossless wherever the format can: the loss has been had already.
SAVE_FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "png": ("PNG", {}),
    "webp": ("WEBP", {"lossless": True}),
    "tiff": ("TIFF", {}),
    "tif": ("TIFF", {}),
    "bmp": ("BMP", {}),
    "ppm": ("PPM", {}),
    "jpeg": ("JPEG", {"quality": 95, "subsampling": "4:4:4"}),
    "jpg": ("JPEG", {"quality": 95, "subsampling": "4:4:4"}),
    "avif": ("AVIF", {"quality": 95, "subsampling": "4:4:4"}),
}
WITHOUT_ALPHA = {"BMP", "PPM", "JPEG"}


@dataclass(frozen=True, eq=False)
class Picture:
    """An upright 8-bit picture.

    rgb: uint8 [H, W, 3]; alpha: uint8 [H, W], or None where every pixel is opaque.
    icc: an RGB profile that the values of `rgb` are in; None means sRGB.
    exif: a TIFF structure (no `Exif` prefix) without an orientation; xmp: an XML packet.
    """

    rgb: Pixels
    alpha: Pixels | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None


def read_picture(
    source: ImageSource, *, metadata: frozenset[str] = frozenset(), max_pixels: int = DEFAULT_MAX_PIXELS
) -> Picture:
    """Reads an image and brings it to upright 8-bit sRGB.

    source: a PIL image, a path, the bytes of an image file, a binary file open at its beginning, or a uint8 array
        [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]. Of an animation the first frame is taken. Any Pillow mode but floating point.
    metadata: what to keep, out of "icc", "exif" and "xmp". With "icc" the values of an RGB image stay in its profile;
        otherwise, and for CMYK and grey profiles always, they are converted to sRGB.
    max_pixels: an image of more pixels is refused before any is decoded.

    Alpha that is opaque everywhere is dropped. Raises ImageError for what is no image, is damaged or too large, and
    OptionError for unknown metadata. The source is not changed.
    """
    if unknown := metadata - METADATA_KINDS:
        raise OptionError(f"unknown metadata {', '.join(sorted(unknown))}; choose from icc, exif, xmp")
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels)
    name = _name_of(source)
    with _decoding(name), _opened(source, name) as image:
        _check_size(image.width, image.height, max_pixels, name)
        image.load()
        colour, alpha = _split_alpha(_eight_bit(_upright(image), name))
        colour, icc = _to_srgb(colour, image.info.get("icc_profile"), keep="icc" in metadata)
        return Picture(
            rgb=np.array(colour),
            alpha=alpha,
            icc=icc,
            exif=_kept_exif(image, name) if "exif" in metadata else None,
            xmp=_kept_xmp(image) if "xmp" in metadata else None,
        )


def to_pil(picture: Picture) -> Image.Image:
    """The picture as a PIL image, RGB or RGBA; metadata in `info` under Pillow's keys."""
    image = Image.fromarray(picture.rgb)
    if picture.alpha is not None:
        image.putalpha(Image.fromarray(picture.alpha))
    if picture.icc:
        image.info["icc_profile"] = picture.icc
    if picture.exif:
        image.info["exif"] = EXIF_PREFIX + picture.exif
    if picture.xmp:
        image.info["xmp"] = picture.xmp
    return image


def to_image_file(image: Image.Image, extension: str) -> bytes:
    """The bytes of an image file, metadata in `info` included.

    extension: a key of SAVE_FORMATS; png, webp, tiff, bmp and ppm hold exactly these pixels.
    Raises OptionError for an unknown format, ImageError where the format cannot hold the picture.
    """
    if extension not in SAVE_FORMATS:
        raise OptionError(f"unknown image format {extension!r}; choose from {', '.join(SAVE_FORMATS)}")
    kind, options = SAVE_FORMATS[extension]
    if "A" in image.getbands() and kind in WITHOUT_ALPHA:
        raise ImageError(f"{extension} cannot hold transparency; choose png, webp or tiff")
    buffer = io.BytesIO()
    try:
        image.save(buffer, kind, **options, **_metadata_options(image, kind))
    except (OSError, RuntimeError, ValueError, KeyError, struct.error) as error:
        raise ImageError(f"cannot be written as {extension} ({error}); choose png") from error
    return buffer.getvalue()


def _metadata_options(image: Image.Image, kind: str) -> dict[str, Any]:
    """What Pillow's `save` must be told to write the metadata in `info`; each of its writers wants it another way."""
    options = {key: image.info[key] for key in ("icc_profile", "exif", "xmp") if image.info.get(key)}
    if kind == "PNG" and "xmp" in options:
        text = PngInfo()
        text.add_itxt("XML:com.adobe.xmp", options.pop("xmp").decode("utf-8", "replace"))
        options["pnginfo"] = text
    if kind == "TIFF":
        options |= {"compression": "tiff_adobe_deflate"}
        tags = Image.Exif()
        if "exif" in options:
            tags.load(options.pop("exif"))
            tags = _exif_for_tiff(tags)
            options["compression"] = (
                "raw"  # Pillow writes directories inside a directory only when it compresses nothing
            )
        if "xmp" in options:
            tags[XMP_TAG] = options.pop("xmp")
        options["tiffinfo"] = tags
    return options


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
    """Turns whatever Pillow and its decoders raise over a bad file into an ImageError that names the file."""
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
    """The image with its header read, its pixels not yet decoded; files opened here are closed here."""
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
    """Image.open, with an error for each kind of file that Pillow cannot read and we can name."""
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


def _check_size(width: int, height: int, max_pixels: int, name: str) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"{name}: the image has no pixels")
    if width * height > max_pixels:
        raise ImageError(
            f"{name}: {width} x {height} are {width * height} pixels, above the limit of {max_pixels}; "
            "raise --max-pixels (max_pixels)"
        )


def _upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF (or XMP) orientation says; unreadable EXIF turns nothing."""
    try:
        orientation = image.getexif().get(ExifTag.Orientation, 1)
    except Exception:  # a photograph with broken EXIF is still a photograph
        return image
    return ImageOps.exif_transpose(image) if orientation in range(2, 9) else image


def _eight_bit(image: Image.Image, name: str) -> Image.Image:
    """Modes of more than 8 bits a sample, scaled so that 65535 becomes 255; others as they are."""
    if image.mode == "F":
        raise ImageError(f"{name}: floating-point pixels have no agreed white; convert the image to 8 or 16 bits first")
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ImageError(
            f"{name}: pixel values beyond 0..65535 have no agreed white; convert the image to 8 or 16 bits"
        )
    reduced = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):  # a PNG's one transparent grey, told in 16 bits
        reduced.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return reduced


def _split_alpha(image: Image.Image) -> tuple[Image.Image, Pixels | None]:
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


def _to_srgb(colour: Image.Image, profile: bytes | None, *, keep: bool) -> tuple[Image.Image, bytes | None]:
    """RGB pixels in sRGB; or, to keep an RGB profile, the pixels as they are and the profile.

    A profile that cannot be read, or is for another kind of pixels, is passed over, as browsers do.
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
    """Whether an RGB transform moves no colour of a 6x6x6 grid by more than one step: so are all flavours of sRGB."""
    levels = np.arange(0, 256, 51, dtype=np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    moved = np.asarray(ImageCms.applyTransform(Image.fromarray(grid), transform))
    return bool(np.abs(moved.astype(np.int16) - grid).max() <= 1)


def _kept_exif(image: Image.Image, name: str) -> bytes | None:
    """The EXIF block as a TIFF structure, with its orientation taken out: the pixels are upright now."""
    try:
        raw: bytes | None = image.info.get("exif")
        if not raw:
            exif = _exif_for_tiff(image.getexif()) if image.format == "TIFF" else image.getexif()
            if not exif:
                return None
            raw = exif.tobytes()
        return _without_orientation(raw.removeprefix(EXIF_PREFIX))
    except Exception as error:
        raise ImageError(f"{name}: its EXIF block is damaged; leave exif out of --metadata (metadata)") from error


def _exif_for_tiff(tags: Image.Exif) -> Image.Exif:
    """The part of a TIFF's tags that is about the photograph: what can be taken from one file to another."""
    exif = Image.Exif()
    for tag in TIFF_TAGS_KEPT:
        if tag in tags:
            exif[tag] = tags[tag]
    for pointer in (ExifTag.ExifOffset, ExifTag.GPSInfo):
        if entries := tags.get_ifd(pointer):
            exif.get_ifd(pointer).update(entries)
            exif[pointer] = 0  # the offset, which the writer fills in
    return exif


def _without_orientation(tiff: bytes) -> bytes:
    """Cuts the orientation's 12-byte entry out of the first directory; nothing that offsets point at moves."""
    order = {b"II": "<", b"MM": ">"}[tiff[:2]]
    (start,) = struct.unpack_from(order + "I", tiff, 4)
    (count,) = struct.unpack_from(order + "H", tiff, start)
    for position in range(start + 2, start + 2 + 12 * count, 12):
        if struct.unpack_from(order + "H", tiff, position) == (ExifTag.Orientation,):
            end = start + 2 + 12 * count + 4  # the directory's last field is the offset of the next one
            fewer = struct.pack(order + "H", count - 1)
            return (
                tiff[:start] + fewer + tiff[start + 2 : position] + tiff[position + 12 : end] + bytes(12) + tiff[end:]
            )
    return tiff


def _kept_xmp(image: Image.Image) -> bytes | None:
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    if not xmp:
        return None
    data = xmp.encode() if isinstance(xmp, str) else bytes(xmp)
    return re.sub(rb'\s*tiff:Orientation="[0-9]"|<tiff:Orientation>[0-9]</tiff:Orientation>', b"", data)
