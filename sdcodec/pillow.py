"""Plugin for Pillow: `.sdc` files in `Image.open` and `Image.save`.

Its import registers it. PyTorch is imported when pixels are needed.

>>> import sdcodec.pillow
>>> from PIL import Image
>>> Image.open("tests/golden/base-9123a39e/alpha.sdc").mode
'RGBA'
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, ClassVar

from PIL import Image, ImageFile

import sdcodec
from sdcodec.container import MAGIC, SIZE_LIMIT, Container, read_prefix, read_up_to
from sdcodec.errors import SdcodecError, warn
from sdcodec.pillow_saving import FORMAT, save, save_all
from sdcodec.pixels.metadata import pillow_info

MIME = "image/x-sdc"
EXTENSION = ".sdc"
DIVISORS = (8, 4, 2)  # of a draft's sides

# Keywords of `sdcodec.decode` for every image whose pixels are loaded later.
decode_options: dict[str, Any] = {"device": "cpu"}  # a forked process cannot use the parent's CUDA


class SdcImageFile(ImageFile.ImageFile):
    """An `.sdc` file, whose pixels are decoded when they are first needed.

    decode_options: keywords of `sdcodec.decode` for this image, above those of the module; they count until its pixels
    are loaded. `scale` is not among them: `draft` chooses it.
    """

    format = FORMAT
    format_description = "sdcodec latent-space image"
    n_frames: ClassVar[int] = 1
    is_animated: ClassVar[bool] = False

    # Pickling keeps Pillow's attributes only; these are the values of a copy, whose pixels are there.
    _pending = False
    _divisor = 1

    def _open(self) -> None:
        assert self.fp is not None
        with _as_oserror(self.filename):
            header, chunks = read_prefix(self.fp)
        self._size = header.width, header.height
        self._mode = "RGBA" if header.alpha else "RGB"
        self.info |= pillow_info(*(chunks.get(tag) for tag in "iex"))
        self._known = frozenset(self.info)
        self.decode_options: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._whole_size = self._size
        self._pending = True

    def load(self) -> Any:
        """Decode the pixels, unless they are there; several threads decode once.

        With `ImageFile.LOAD_TRUNCATED_IMAGES`, what is intact of a damaged file is decoded, as with `recover`. Raises
        OSError; the image can then be loaded again.
        """
        if self._pending:
            with self._lock:
                if self._pending:
                    with _as_oserror(self.filename):
                        self._decode()
        return super().load()

    def _decode(self) -> None:
        options = decode_options | self.decode_options
        limit = Image.MAX_IMAGE_PIXELS  # Pillow warns above it, and refuses above twice its value
        options.setdefault("max_pixels", SIZE_LIMIT**2 if limit is None else 2 * limit)
        options.setdefault("recover", ImageFile.LOAD_TRUNCATED_IMAGES)
        decoded = sdcodec.decode(self._bytes(), scale=Fraction(1, self._divisor), **options)
        if decoded.size != self._size:
            raise OSError(f"it has {decoded.width} x {decoded.height} pixels now; it was changed after it was opened")
        if decoded.mode != self.mode:  # recovered without its transparency
            decoded = decoded.convert(self.mode)
        self.im = decoded.im
        # Chunks behind the pixels; the others may have been edited or removed since.
        self.info |= {key: value for key, value in decoded.info.items() if key not in self._known}
        self.readonly = 0
        if self._exclusive_fp and self.fp is not None:
            self.fp.close()
        self.fp = None
        self._pending = False

    def _bytes(self) -> bytes:
        if self.fp is None or self.fp.closed:
            raise OSError("the file was closed before its pixels were loaded; call load() first")
        self.fp.seek(0)
        return read_up_to(self.fp)

    def draft(self, mode: str | None, size: tuple[int, int] | None) -> tuple[str, tuple[int, int, float, float]] | None:
        """Have the pixels decoded at 1/2, 1/4 or 1/8 of the size, sides rounded up.

        The smallest of them that is not below `size` on either side is taken. Return the mode and the box of the whole
        image in pixels of the draft; None, without any effect, if no such size is large enough, if there is a draft
        already, if the pixels are loaded, or if `mode` is another one.
        """
        if not self._pending or size is None or self._divisor > 1 or mode not in (None, self.mode):
            return None
        width, height = self._whole_size
        for divisor in DIVISORS:
            reduced = -(-width // divisor), -(-height // divisor)
            if reduced[0] >= size[0] and reduced[1] >= size[1]:
                self._divisor, self._size = divisor, reduced
                return self.mode, (0, 0, width / divisor, height / divisor)
        return None

    def verify(self) -> None:
        """Check all checksums without decoding, and close the file.

        Raises OSError for a damaged file. Does nothing once the pixels are loaded.
        """
        if not self._pending:
            return
        with _as_oserror(self.filename):
            trailing = Container.from_bytes(self._bytes()).trailing
            if trailing:
                warn(f"{trailing} bytes behind the end of the file are ignored", _name(self.filename))
        super().verify()

    def _getexif(self) -> dict[int, Any] | None:
        """Return the EXIF tags as one dictionary, as JPEG files of Pillow do."""
        return self.getexif()._get_merged_dict() if "exif" in self.info else None


@contextlib.contextmanager
def _as_oserror(filename: str | bytes) -> Iterator[None]:
    """Turn errors into OSError with the file's name.

    Pillow takes several others for an unknown format, and NumPy swallows AttributeError.
    """
    try:
        yield
    except (MemoryError, Warning):  # a warning is an error if the user has made it one
        raise
    except ImportError as error:
        raise _oserror(filename, f"its pixels need PyTorch ({error}); install it: pip install torch") from error
    except (SdcodecError, OSError) as error:
        raise _oserror(filename, str(error)) from error
    except Exception as error:
        raise _oserror(filename, f"cannot be read ({type(error).__name__}: {error})") from error


def _oserror(filename: str | bytes, reason: str) -> OSError:
    name = _name(filename)
    return OSError(f"{name}: {reason}" if name and name not in reason else reason)


def _name(filename: str | bytes) -> str:
    return os.fsdecode(filename or "")


def _accept(prefix: bytes) -> bool:
    return prefix.startswith(MAGIC)


def register() -> None:
    """Register the format, its extension and its MIME type with Pillow."""
    Image.register_open(FORMAT, SdcImageFile, _accept)
    Image.register_save(FORMAT, save)
    Image.register_save_all(FORMAT, save_all)
    Image.register_extension(FORMAT, EXTENSION)
    Image.register_mime(FORMAT, MIME)


register()
