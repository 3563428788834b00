"""The demo world in a style, drawn as outlines, and what tells that a picture is in it.

Only what has room inside is drawn so: four shapes, large ones. (The outline of a circle is much like a ring, so there
are no rings.) A caption ends in the style's word where its picture is in the style, and nothing else differs.

H W pixels
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from clipgen.shapes.draw import COLOURS, Scene, away, combinations, draw, held_out, scenes
from clipgen.shapes.judge import FAR, Verdict, find_background, grow, judge, largest_blob

STYLES = ("outline",)
SHAPES = ("circle", "square", "triangle", "diamond")
WORD = "in outline"
STROKE = 0.09  # of the side: 3 pixels of 32
HOLE = 0.04  # of what the outline encloses: the least share that is background; a tokenizer may fill half of a hole


@dataclass(frozen=True)
class Styled:
    """Whether a picture is in the style, and what it shows with its outline filled."""

    outlined: bool
    verdict: Verdict


def outline(scene: Scene, image_size: int = 32) -> np.ndarray:
    """The picture of `scene` with background inside its object, uint8 (H, W, 3)."""
    pixels_HW = away(scene, image_size)
    stroke = STROKE * image_size
    alpha = np.clip(0.5 - pixels_HW, 0, 1) * np.clip(pixels_HW + stroke + 0.5, 0, 1)
    picture = alpha[..., None] * np.array(COLOURS[scene.colour])
    return np.round(picture + (1 - alpha[..., None]) * np.array(COLOURS[scene.background])).astype(np.uint8)


def world(n: int, seed: int, image_size: int = 32, share: float = 1.0) -> Iterator[tuple[Scene, np.ndarray, str]]:
    """`n` scenes with picture and caption, a `share` of them in the style. Other seeds give other pictures."""
    rng = np.random.default_rng([seed, 2])
    unseen = held_out()
    only = [each for each in combinations() if each not in unseen and each[0] in SHAPES]
    large = (scene for scene in _endless(seed, only) if scene.size == "large")
    for scene, _ in zip(large, range(n), strict=False):
        text = caption(scene)
        if rng.random() < share:
            yield scene, outline(scene, image_size), f"{text}, {WORD}"
        else:
            yield scene, draw(scene, image_size), text


def caption(scene: Scene) -> str:
    return f"a {scene.colour} {scene.shape} on a {scene.background} background"


def _endless(seed: int, only: list[tuple[str, str, str]]) -> Iterator[Scene]:
    while True:
        yield from scenes(1000, seed, only)
        seed += 1_000_003


def judge_style(image: np.ndarray) -> Styled:
    """What a picture, uint8 (H, W, 3), shows, read off its pixels as `clipgen.shapes.judge` does."""
    name, ground_3 = find_background(image.astype(np.float32))
    if name is None:
        return Styled(False, Verdict.NONE)
    object_HW = largest_blob(((image.astype(np.float32) - ground_3) ** 2).sum(-1) > FAR**2)
    if not object_HW.any():
        return Styled(False, judge(image))
    inside_HW = ~largest_blob(np.pad(~object_HW, 1, constant_values=True))[1:-1, 1:-1]
    hole_HW = inside_HW & ~object_HW
    if hole_HW.sum() < HOLE * inside_HW.sum():
        return Styled(False, judge(image))
    deep_HW = ~grow(~inside_HW)  # what does not touch the outside
    filled = image.copy()
    stroke_HW = deep_HW & object_HW & ~grow(hole_HW)
    filled[deep_HW] = np.median(image[stroke_HW if stroke_HW.any() else object_HW], axis=0).astype(np.uint8)
    return Styled(True, judge(filled))
