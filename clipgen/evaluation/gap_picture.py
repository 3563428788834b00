"""The modality gap as a picture: both clouds in two principal directions, before and after each bridge."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from clipgen.transformer.bridges import bridge
from clipgen.transformer.condition import centre

CELL, HEAD, GAP, COLUMNS = 300, 38, 10, 4
IMAGE, TEXT = (38, 110, 190, 110), (222, 110, 20, 110)
POINTS = 1500  # of a cloud


def gap_picture(
    image_NE: Tensor,
    text_ME: Tensor,
    statistics: Mapping[str, Tensor],
    bank_NE: Tensor | None,
    found: Mapping[str, Mapping[str, float]],
) -> Image.Image:
    """Panels in rows: as they are, then the conditions by each bridge in `found`.

    The first panel's directions are the PCA of both clouds together. The others share theirs, the PCA of the images'
    conditions and of the texts' by bridge none, so that they can be compared.
    """
    image_NE, text_ME = _some(image_NE), _some(text_ME)
    condition_NE = centre(image_NE, statistics["image_mean"])
    names = [name for name in found if name != "image"]
    moved = {name: bridge(name, text_ME, statistics, bank_NE) for name in names}
    distance = float((image_NE.mean(0) - text_ME.mean(0)).norm())
    panels = [_panel(f"as they are: centroids {distance:.2f} apart", image_NE, text_ME, _plane(image_NE, text_ME))]
    origin_E, plane_E2, _ = _plane(condition_NE, bridge("none", text_ME, statistics))
    plane = origin_E, plane_E2, _half(torch.cat([condition_NE, *moved.values()]), origin_E, plane_E2)
    for name in names:
        words = f"{name}: centroids {found[name]['centroid_distance']:.2f}, nearest {found[name]['cosine_nearest']:.2f}"
        panels.append(_panel(words, condition_NE, moved[name], plane))
    return _sheet(panels, found["image"]["cosine_nearest"])


def _some(rows_NE: Tensor) -> Tensor:
    """Evenly spread rows of a cloud that would be too dense."""
    chosen = torch.linspace(0, len(rows_NE) - 1, min(POINTS, len(rows_NE))).round().long()
    return rows_NE[chosen]


def _plane(*clouds: Tensor) -> tuple[Tensor, Tensor, float]:
    """(origin (E,), two directions (E, 2), half the side of the square that holds nearly all)."""
    rows_NE = torch.cat(clouds)
    origin_E = rows_NE.mean(0)
    _, _, directions_EE = torch.linalg.svd(rows_NE - origin_E, full_matrices=False)
    plane_E2 = directions_EE[:2].T
    return origin_E, plane_E2, _half(rows_NE, origin_E, plane_E2)


def _half(rows_NE: Tensor, origin_E: Tensor, plane_E2: Tensor) -> float:
    return 1.1 * float(((rows_NE - origin_E) @ plane_E2).abs().quantile(0.999))


def _panel(words: str, image_NE: Tensor, text_ME: Tensor, plane: tuple[Tensor, Tensor, float]) -> Image.Image:
    origin_E, plane_E2, half = plane
    panel = Image.new("RGB", (CELL, CELL + HEAD), "white")
    pen = ImageDraw.Draw(panel, "RGBA")
    pen.text((2, 16), words, fill="black", font=ImageFont.load_default(13))
    points_P2 = torch.cat([(image_NE - origin_E) @ plane_E2, (text_ME - origin_E) @ plane_E2])
    colours = [IMAGE] * len(image_NE) + [TEXT] * len(text_ME)
    for i in np.random.default_rng(0).permutation(len(colours)):  # so that no cloud covers the other
        x, y = ((points_P2[i] / half).clamp(-1, 1) * (CELL / 2 - 4) + CELL / 2).tolist()
        pen.ellipse((x - 2, HEAD + y - 2, x + 2, HEAD + y + 2), fill=colours[i])
    pen.rectangle((0, HEAD, CELL - 1, HEAD + CELL - 1), outline=(200, 200, 200))
    return panel


def _sheet(panels: Sequence[Image.Image], image_nearest: float) -> Image.Image:
    rows = -(-len(panels) // COLUMNS)
    width, height = COLUMNS * (CELL + GAP) + GAP, rows * (CELL + HEAD + GAP) + 30
    sheet = Image.new("RGB", (width, height), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    pen.ellipse((GAP, 11, GAP + 10, 21), fill=IMAGE[:3])
    pen.text((GAP + 16, 7), "images", fill="black", font=font)
    pen.ellipse((GAP + 90, 11, GAP + 100, 21), fill=TEXT[:3])
    legend = f"texts   (PCA; nearest: mean cosine with the nearest image, which is {image_nearest:.2f} for an image)"
    pen.text((GAP + 106, 7), legend, fill="black", font=font)
    for i, panel in enumerate(panels):
        sheet.paste(panel, (GAP + i % COLUMNS * (CELL + GAP), 30 + i // COLUMNS * (CELL + HEAD + GAP)))
    return sheet
