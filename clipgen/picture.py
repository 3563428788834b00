"""Grids of images with words under them: what a person looks at instead of numbers."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GAP = 4


def image_grid(
    images: Sequence[np.ndarray | Image.Image],
    columns: int,
    labels: Sequence[str] = (),
    cell: int = 96,
) -> Image.Image:
    """Images in rows of `columns`, each enlarged to `cell` pixels, with the label of a row (one per row) above it."""
    rows = -(-len(images) // columns)
    heading = 18 if labels else 0
    width = columns * (cell + GAP) + GAP
    sheet = Image.new("RGB", (width, rows * (cell + GAP + heading) + GAP), "white")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    for row in range(rows):
        top = GAP + row * (cell + GAP + heading)
        if labels:
            pen.text((GAP, top + 1), shorten(pen, labels[row], width - 2 * GAP, font), fill="black", font=font)
        for column, image in enumerate(images[row * columns : (row + 1) * columns]):
            picture = image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image))
            smooth = picture.width > cell
            picture = picture.resize((cell, cell), Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST)
            sheet.paste(picture, (GAP + column * (cell + GAP), top + heading))
    return sheet


def beside(sheets: Sequence[Image.Image]) -> Image.Image:
    """Sheets from left to right, on white."""
    page = Image.new("RGB", (sum(sheet.width for sheet in sheets), max(sheet.height for sheet in sheets)), "white")
    left = 0
    for sheet in sheets:
        page.paste(sheet, (left, 0))
        left += sheet.width
    return page


def shorten(pen: ImageDraw.ImageDraw, text: str, width: int, font: ImageFont.ImageFont) -> str:
    """`text`, or as much of its beginning as fits into `width` pixels and an ellipsis."""
    if pen.textlength(text, font=font) <= width:
        return text
    while text and pen.textlength(text + "…", font=font) > width:
        text = text[:-1]
    return text + "…"
