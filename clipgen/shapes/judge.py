"""The judge: what a picture of the demo world shows, read off its pixels without any learned model.

A picture is explained as `background + alpha * (foreground - background)`; alpha must hold one connected object with
edges about as sharp as drawn ones, and one drawn shape must lie well under it. Where that fails the answer is none.
The bounds were measured on drawn pictures, on the same with the faults of a good reconstruction (shifted colours,
noise, soft or rippled edges, JPEG), and on damaged ones; `tests/shapes/test_judge.py` makes most of them again.

N pixels, H W the picture, h w the object's window, C palette colours, K hypotheses (x, y, radius, angle) of one shape
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np

from clipgen.shapes.draw import COLOURS, MAX_ANGLE, SHAPES, SIZES, distance

NAMES = tuple(COLOURS)
PALETTE_C3 = np.array([COLOURS[name] for name in NAMES], dtype=np.float32)
SIZE_BORDER = (SIZES["small"][1] + SIZES["large"][0]) / 2
RADII = 0.85 * SIZES["small"][0], 1.15 * SIZES["large"][1]  # beyond these a size is not one of the world's

# Colours, in RGB distance. The closest two of the palette, orange and yellow, are 94 apart; 25 per channel is 43.
NEAR = 60.0  # within it a colour has the nearest name
FAR = 45.0  # beyond it a pixel is not background; noise of sigma 8 stays under 35
OFF = 50.0  # beyond it from every mix of background and foreground, a pixel belongs to neither
OFF_SHARE = 0.25  # of what is not background, before the foreground has no single colour

BORDER_SHARE = 0.6  # of the border that is background; uniform noise gives one colour under 0.06
LEAST_SHARE = 0.01  # of the picture; the smallest shape covers 0.04
TOUCHING = 0.5  # of the four neighbours; drawn shapes have 0.69 and more, speckles and scattered pixels up to 0.45
STRAY_SHARE = (
    0.07  # outside the largest object; drawn up to 0.01, ragged 0.02 in 95 of 100, the least second object 0.11
)

OBJECT = 0.3  # alpha above it is object, for the flood fill
RAMP = 0.2  # alpha below it counts as 0, above 1 - it as 1: noise and ripples vanish, areas stay
EDGE_WIDTH = 3.1 / 32  # of the side; drawn 1.0 px of 32, noisy 1.6, blurred by 1 px 2.9; by 2 px from 3.3 in 95 of 100

# Soft IoU: thin shapes lose more of it to a soft edge. Drawn pictures have 0.92 and more, blurred by 0.8 px 0.81 (thin)
# to 0.93 (circle) and more; bitten ones in 95 of 100 at most 0.53 (ring) to 0.74 (triangle), patched ones 0.76 to 0.81,
# and 0.88 where a triangle fits best. Half of a triangle may be one.
LEAST_OVERLAP = {"circle": 0.83, "square": 0.83, "triangle": 0.85, "cross": 0.80, "ring": 0.82, "diamond": 0.83}
LEAST_LEAD = 0.03  # over the next shape; drawn pictures lead by 0.05 and more, half of the patched ones by under 0.02
TURNING = frozenset(SHAPES) - {"circle", "ring"}
ANGLES = np.linspace(-MAX_ANGLE, MAX_ANGLE, 7)
MOVES = np.concatenate([np.diag([1, 1, 1, 5.0]), -np.diag([1, 1, 1, 5.0])])  # pixels, pixels, pixels, degrees


@dataclass(frozen=True)
class Verdict:
    """What the judge saw; None where it will not say. x, y and radius are fractions of the side, as in `Scene`."""

    shape: str | None = None
    colour: str | None = None
    background: str | None = None
    size: str | None = None
    x: float | None = None
    y: float | None = None
    radius: float | None = None

    NONE: ClassVar["Verdict"]


Verdict.NONE = Verdict()


@dataclass(frozen=True)
class Figure:
    """What stands before the background: its colour, its share alpha of each pixel, and where anything at all is."""

    colour: str
    alpha_HW: np.ndarray
    far_HW: np.ndarray


@dataclass(frozen=True)
class Fit:
    """One shape laid under an object: (x, y, radius, angle) in pixels and degrees, and the soft IoU of the two."""

    shape: str
    place_4: np.ndarray
    overlap: float


def judge_many(images: Iterable[np.ndarray]) -> list[Verdict]:
    """The verdict on each uint8 (H, W, 3)."""
    return [judge(image) for image in images]


def judge(image: np.ndarray) -> Verdict:
    """The verdict on one picture, uint8 (H, W, 3), square.

    A colour may be named where the shape is not: a broken blob still has one. Without a shape there is no size.
    """
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[0] == image.shape[1], (image.dtype, image.shape)
    pixels_HW3 = image.astype(np.float32)
    background, ground_3 = find_background(pixels_HW3)
    if background is None:
        return Verdict.NONE
    figure = find_figure(pixels_HW3, background, ground_3)
    if figure is None:
        return Verdict(background=background)
    fit = find_shape(figure)
    if fit is None:
        return Verdict(colour=figure.colour, background=background)
    x, y, radius = (float(length) / len(image) for length in fit.place_4[:3])
    size = "small" if radius < SIZE_BORDER else "large"
    return Verdict(fit.shape, figure.colour, background, size, x, y, radius)


def find_background(pixels_HW3: np.ndarray) -> tuple[str | None, np.ndarray]:
    """Name and colour of what two pixels' width of border mostly show; None where they agree on nothing."""
    sides = pixels_HW3[:2], pixels_HW3[-2:], pixels_HW3[2:-2, :2], pixels_HW3[2:-2, -2:]
    border_N3 = np.concatenate([side.reshape(-1, 3) for side in sides])
    nearest_N = nearest_name(border_N3)
    winner = np.bincount(nearest_N + 1, minlength=len(NAMES) + 1)[1:].argmax()
    members_N = nearest_N == winner
    name = NAMES[winner] if members_N.mean() >= BORDER_SHARE else None
    return name, border_N3[members_N].mean(0) if name else np.zeros(3)


def find_figure(pixels_HW3: np.ndarray, background: str, ground_3: np.ndarray) -> Figure | None:
    """What is not background; None where it is too little, scattered, or of no one colour."""
    delta_HW3 = pixels_HW3 - ground_3
    far_HW = (delta_HW3**2).sum(-1) > FAR**2
    n_far = far_HW.sum()
    if n_far < LEAST_SHARE * far_HW.size:
        return None
    neighbours = 2 * ((far_HW[1:] & far_HW[:-1]).sum() + (far_HW[:, 1:] & far_HW[:, :-1]).sum())
    if neighbours < TOUCHING * 4 * n_far:
        return None
    delta_N3 = delta_HW3[far_HW]
    nearest_N = nearest_name(delta_N3 + ground_3)
    least, colour, axis_3 = np.inf, None, None
    for i, name in enumerate(NAMES):
        members_N = nearest_N == i
        if name == background or members_N.sum() < 3:
            continue
        # a soft edge passes through other colours, as red on yellow does through orange: the true end of the line is
        # the colour whose mixes with the background leave least unexplained
        candidate_3 = core_colour(delta_N3[members_N])
        off_N = off_line(delta_N3, candidate_3)
        if np.minimum(off_N, NEAR).mean() < least and (off_N > OFF).mean() <= OFF_SHARE:
            least, colour, axis_3 = np.minimum(off_N, NEAR).mean(), name, candidate_3
    if colour is None:
        return None
    alpha_HW = np.clip(delta_HW3 @ (axis_3 / (axis_3 @ axis_3)), 0, 1)
    alpha_HW[far_HW] *= off_line(delta_N3, axis_3) <= OFF
    return Figure(colour, alpha_HW, far_HW)


def nearest_name(colours_N3: np.ndarray) -> np.ndarray:
    """Index into NAMES of the palette colour within NEAR of each colour, else -1."""
    square_NC = ((colours_N3[:, None] - PALETTE_C3) ** 2).sum(-1)
    return np.where(square_NC.min(1) < NEAR**2, square_NC.argmin(1), -1)


def core_colour(delta_N3: np.ndarray) -> np.ndarray:
    """Mean of the half that is furthest from the background: the other half are edges.

    A median would follow one crest of a ripple.
    """
    along_N = delta_N3 @ delta_N3.mean(0)
    return delta_N3[along_N >= np.median(along_N)].mean(0)


def off_line(delta_N3: np.ndarray, axis_3: np.ndarray) -> np.ndarray:
    """RGB distance of each colour from the nearest mix of background (0) and foreground (`axis_3`)."""
    mix_N = np.clip(delta_N3 @ (axis_3 / (axis_3 @ axis_3)), 0, 1)
    return np.linalg.norm(delta_N3 - mix_N[:, None] * axis_3, axis=1)


def find_shape(figure: Figure, radii: tuple[float, float] = RADII) -> Fit | None:
    """The one shape that explains the figure; None where there is another thing, a blur, or no good fit.

    `radii` are the least and the greatest that are taken, as fractions of the side.
    """
    side = len(figure.alpha_HW)
    object_HW = grow(largest_blob(figure.alpha_HW > OBJECT))
    if (figure.far_HW & ~object_HW).sum() > STRAY_SHARE * figure.far_HW.sum():
        return None
    if edge_width(figure.alpha_HW * grow(object_HW)) > EDGE_WIDTH * side:
        return None
    alpha_HW = ramp(figure.alpha_HW) * object_HW
    if alpha_HW.sum() < 1:
        return None
    fits = sorted((lay(shape, alpha_HW) for shape in SHAPES), key=lambda fit: -fit.overlap)
    best, second = sorted((polish(fit, alpha_HW) for fit in fits[:2]), key=lambda fit: -fit.overlap)
    lead = best.overlap - max(second.overlap, fits[2].overlap)
    if best.overlap < LEAST_OVERLAP[best.shape] or lead < LEAST_LEAD:
        return None
    return best if radii[0] < best.place_4[2] / side < radii[1] else None


def largest_blob(mask_HW: np.ndarray) -> np.ndarray:
    """The largest 8-connected part of a mask, flood-filled in the bits of one Python integer."""
    wide = np.pad(mask_HW, ((0, 0), (0, 1)))  # an empty column keeps a row's end from touching the next row's start
    stride = wide.shape[1]
    rest = int.from_bytes(np.packbits(wide).tobytes(), "big")
    best = 0
    while rest:
        blob, grown = 0, rest & -rest
        while grown != blob:
            blob = grown
            row = blob | blob << 1 | blob >> 1
            grown = (row | row << stride | row >> stride) & rest
        rest ^= blob
        best = max(best, blob, key=int.bit_count)
    bits = np.unpackbits(np.frombuffer(best.to_bytes(-(-wide.size // 8), "big"), np.uint8))
    return bits[: wide.size].reshape(wide.shape)[:, :-1].astype(bool)


def grow(mask_HW: np.ndarray) -> np.ndarray:
    """The mask and every pixel that touches it."""
    wide = np.pad(mask_HW, 1)
    rows = wide[:-2] | wide[1:-1] | wide[2:]
    return rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:]


def edge_width(alpha_HW: np.ndarray) -> float:
    """Mean width of an object's edges in pixels: what is partly covered, over the length of the outline."""
    down_HW, right_HW = np.gradient(alpha_HW)
    return float((4 * alpha_HW * (1 - alpha_HW)).sum() / (np.hypot(down_HW, right_HW).sum() + 1e-6))


def ramp(alpha: np.ndarray) -> np.ndarray:
    return np.clip((alpha - RAMP) / (1 - 2 * RAMP), 0, 1)


@lru_cache
def unit_area(shape: str) -> float:
    """Area of `shape` at radius 1."""
    grid = np.arange(-1.2, 1.2, 0.005) + 0.0025
    return float((distance(shape, *np.meshgrid(grid, grid)) < 0).mean() * 2.4**2)


def lay(shape: str, alpha_HW: np.ndarray) -> Fit:
    """`shape` under an object: centroid and area say where and how large (every shape's centroid is its centre)."""
    area = alpha_HW.sum()
    centres = np.arange(len(alpha_HW)) + 0.5
    x, y = alpha_HW.sum(0) @ centres / area, alpha_HW.sum(1) @ centres / area
    radius = np.sqrt(area / unit_area(shape))
    angles = ANGLES if shape in TURNING else [0.0]
    return best_of(shape, np.array([(x, y, radius, angle) for angle in angles]), alpha_HW)


def polish(fit: Fit, alpha_HW: np.ndarray) -> Fit:
    """The same shape, moved, scaled and turned a little where that fits better."""
    for step in (0.5, 0.25):
        moves = step * MOVES if fit.shape in TURNING else step * MOVES[MOVES[:, 3] == 0]
        fit = max(fit, best_of(fit.shape, fit.place_4 + moves, alpha_HW), key=lambda each: each.overlap)
    return fit


def best_of(shape: str, places_K4: np.ndarray, alpha_HW: np.ndarray) -> Fit:
    overlap_K = overlaps(shape, places_K4, alpha_HW)
    best = overlap_K.argmax()
    return Fit(shape, places_K4[best], float(overlap_K[best]))


def overlaps(shape: str, places_K4: np.ndarray, alpha_HW: np.ndarray) -> np.ndarray:
    """Soft IoU of an object with `shape` at each place, (K,)."""
    rows, columns = np.flatnonzero(alpha_HW.any(1)), np.flatnonzero(alpha_HW.any(0))
    window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    alpha_hw = alpha_HW[window].astype(np.float32)
    centres = np.arange(len(alpha_HW), dtype=np.float32) + 0.5
    x, y, radius, angle = places_K4.T.astype(np.float32)[..., None, None]  # each (K, 1, 1)
    dx_K1w, dy_Kh1 = centres[window[1]] - x, centres[window[0], None] - y
    cos, sin = np.cos(np.deg2rad(angle)) / radius, np.sin(np.deg2rad(angle)) / radius
    away_Khw = radius * distance(shape, dx_K1w * cos + dy_Kh1 * sin, dy_Kh1 * cos - dx_K1w * sin)
    common_K = np.minimum(ramp(0.5 - away_Khw), alpha_hw).sum((1, 2))
    # outside its window the object is nothing, so the area of the whole shape completes the union
    return common_K / (alpha_hw.sum() + unit_area(shape) * radius[:, 0, 0] ** 2 - common_K)
