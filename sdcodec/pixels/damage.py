"""Damage of image files that can be read nevertheless: warnings and refusals."""

from __future__ import annotations

from sdcodec.errors import ImageError, warn


def cut_short(name: str, *, complete: bool, allowed: bool, filled: str | None) -> None:
    """Warn about a file without its end or with damaged image data, or refuse it.

    complete: all pixels are there and right; allowed: missing pixels may be filled, or damaged ones read; filled: the
    colour of missing pixels, None if there are none.
    """
    if complete:
        warn("its end mark is missing; all pixels are there", name)
    elif allowed and filled is None:
        warn("its image data is damaged; some pixels may be wrong", name)
    elif allowed:
        warn(f"the file is cut short or damaged; the missing part is {filled}", name)
    else:
        raise ImageError(
            f"{name}: the file is cut short or its image data is damaged; get it again, "
            "or read the rest with --allow-truncated (allow_truncated)"
        )


def warn_of_trailing(count: int, name: str) -> None:
    """Warn about bytes behind the end of an image."""
    if count:
        warn(f"{count} bytes behind the end of the image are ignored", name)
