"""The judge of the two-object world: every object of a picture, read by the demo world's judge with the others erased.

What is not background falls into connected parts; drawn objects never touch. Each part must be one drawn shape of one
colour; where a part is not, or where crumbs are left, the picture as a whole is not read, so that half an object is
never counted. Of two alike objects on each other, of which less than half of one shows, some are read as one.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from clipgen.shapes.judge import (
    FAR,
    LEAST_SHARE,
    STRAY_SHARE,
    Figure,
    find_background,
    find_figure,
    find_shape,
    grow,
    largest_blob,
)  # fmt: skip
from clipgen.shapes.two import RADII, Named

MOST = 6  # objects looked for; beyond that a picture is not one of the world's
SIZES = 0.85 * RADII[0], 1.15 * RADII[1]  # radii that are taken for drawn ones, as fractions of the side


@dataclass(frozen=True)
class Seen:
    """What the judge saw. `named` holds (shape, colour) of every object, sorted; None where it will not say."""

    background: str | None = None
    named: tuple[Named, ...] | None = None
    colours: tuple[str, ...] = ()  # of the objects that have one, readable or not


def judge_many(images: Iterable[np.ndarray]) -> list[Seen]:
    """The verdict on each uint8 (H, W, 3)."""
    return [judge(image) for image in images]


def judge(image: np.ndarray) -> Seen:
    """The verdict on one picture, uint8 (H, W, 3), square."""
    pixels_HW3 = image.astype(np.float32)
    background, ground_3 = find_background(pixels_HW3)
    if background is None:
        return Seen()
    far_HW = ((pixels_HW3 - ground_3) ** 2).sum(-1) > FAR**2
    parts = parts_of(far_HW)
    if parts is None:
        return Seen(background)
    named, colours = [], []
    for part_HW in parts:
        alone_HW3 = np.where(grow(part_HW)[..., None], pixels_HW3, ground_3)
        figure = find_figure(alone_HW3, background, ground_3)
        if figure is not None:
            colours.append(figure.colour)
            fit = find_shape(figure, SIZES) if of_one_colour(figure) else None
            named += [(fit.shape, figure.colour)] if fit else []
    whole = tuple(sorted(named)) if len(named) == len(parts) > 0 else None
    return Seen(background, whole, tuple(sorted(colours)))


def of_one_colour(figure: Figure) -> bool:
    """Whether nothing else looks out from under an object; drawn, noisy and soft ones have no such pixel at all.

    Where a pixel is no mix with the background its alpha is 0. The demo world's judge forgives that at an edge.
    """
    other_HW = figure.far_HW & (figure.alpha_HW == 0)
    return bool(other_HW.sum() <= STRAY_SHARE * figure.far_HW.sum())


def parts_of(far_HW: np.ndarray) -> list[np.ndarray] | None:
    """The connected parts that are large enough for an object; None where there are too many, or too many crumbs."""
    parts, rest_HW, crumbs = [], far_HW.copy(), 0
    while rest_HW.any():
        part_HW = largest_blob(rest_HW)
        rest_HW &= ~part_HW
        if part_HW.sum() < LEAST_SHARE * far_HW.size:
            crumbs = part_HW.sum() + rest_HW.sum()
            break
        parts.append(part_HW)
    too_many = len(parts) > MOST or crumbs > STRAY_SHARE * far_HW.sum()
    return None if too_many else parts


def shares(asked: tuple[Named, ...], background: str, seen: Iterable[Seen]) -> dict[str, float]:
    """Shares of one prompt's pictures that show what it asks for.

    Of a pair: `shape` and `colour` are right where both objects have the shapes, or the colours, that were asked for;
    `binding` where each shape has its own; `swapped` where both are right but each on the other. Of alike objects:
    `count` is their number, whatever they are. `all` is everything, `none` what was not read.
    """
    right: dict[str, list[bool]] = {}
    for each in seen:
        named = each.named or ()
        found = {"background": each.background == background, "none": each.named is None}
        if len(set(asked)) == 1:
            found["count"] = len(named) == len(asked)
        else:
            shapes, colours = (Counter(one[i] for one in named) == Counter(one[i] for one in asked) for i in (0, 1))
            found |= {"shape": shapes, "colour": colours, "binding": named == asked}
            found["swapped"] = shapes and colours and named != asked
        found["all"] = found["background"] and named == asked
        for name, value in found.items():
            right.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in right.items()}
