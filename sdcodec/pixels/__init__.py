"""Images in and out: 8-bit sRGB with optional alpha and metadata."""

from sdcodec.pixels.alpha import pack_alpha, smooth_hidden_colour, unpack_alpha
from sdcodec.pixels.output import SAVE_FORMATS, WITHOUT_ALPHA, to_image_file, to_pil
from sdcodec.pixels.picture import ImageSource, Picture, Pixels
from sdcodec.pixels.source import DEFAULT_MAX_PIXELS, read_picture

__all__ = [
    "DEFAULT_MAX_PIXELS",
    "SAVE_FORMATS",
    "WITHOUT_ALPHA",
    "ImageSource",
    "Picture",
    "Pixels",
    "pack_alpha",
    "read_picture",
    "smooth_hidden_colour",
    "to_image_file",
    "to_pil",
    "unpack_alpha",
]
