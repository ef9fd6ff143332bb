"""Montage of labelled images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

GAP, LABEL_HEIGHT = 8, 52


def side_by_side(pictures: Sequence[tuple[str, NDArray[np.uint8]]], columns: int | None = None) -> Image.Image:
    """Arrange labelled images, uint8 `[H, W, 3]` of one size, in rows of `columns`.

    columns: images per row; None arranges one row. Labels have up to two lines.
    """
    columns = columns or len(pictures)
    height, width = pictures[0][1].shape[:2]
    rows = -(-len(pictures) // columns)
    size = (columns * (width + GAP) + GAP, rows * (height + LABEL_HEIGHT + GAP))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(18)
    for index, (label, pixels) in enumerate(pictures):
        row, column = divmod(index, columns)
        left, top = GAP + column * (width + GAP), row * (height + LABEL_HEIGHT + GAP)
        draw.multiline_text((left, top + 4), label, fill="black", font=font, spacing=2)
        sheet.paste(Image.fromarray(pixels), (left, top + LABEL_HEIGHT))
    return sheet
