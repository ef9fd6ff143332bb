"""Output: pictures as PIL images, and as bytes of image files."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image

from sdcodec.errors import ImageError, OptionError
from sdcodec.pixels.metadata import metadata_options, pillow_info
from sdcodec.pixels.picture import Picture

# Names of the formats that decoded pictures can be saved in: Pillow's name and its options.
# Lossless if the format allows it: the codec's loss is enough.
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


def to_pil(picture: Picture) -> Image.Image:
    """Return the picture as a PIL image, RGB or RGBA.

    Metadata is in `info` under Pillow's keys.
    """
    image = Image.fromarray(picture.rgb)
    if picture.alpha is not None:
        image.putalpha(Image.fromarray(picture.alpha))
    image.info |= pillow_info(picture.icc, picture.exif, picture.xmp)
    return image


def to_image_file(image: Image.Image, extension: str) -> bytes:
    """Return the bytes of an image file, with the metadata in `info`.

    extension: a key of SAVE_FORMATS; png, webp, tiff, bmp and ppm hold exactly these pixels.

    Raises OptionError for an unknown format, ImageError if the format cannot hold the picture.
    """
    if extension not in SAVE_FORMATS:
        raise OptionError(f"unknown image format {extension!r}; choose from {', '.join(SAVE_FORMATS)}")
    kind, options = SAVE_FORMATS[extension]
    if "A" in image.getbands() and kind in WITHOUT_ALPHA:
        raise ImageError(f"{extension} cannot hold transparency; choose png, webp or tiff")
    buffer = io.BytesIO()
    try:
        image.save(buffer, kind, **options, **metadata_options(image, kind))
    except MemoryError:
        raise
    except Exception as error:  # over damaged metadata Pillow's writers raise errors of many classes
        raise ImageError(f"cannot be written as {extension} ({error}); choose png") from error
    return buffer.getvalue()
