"""The judge's bars: what it must read, and what it must refuse.

Damaged pictures keep their colours; each hides, moves or adds at least a quarter of the shape's area.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from PIL import Image, ImageFilter

from clipgen.shapes.draw import COLOURS, SHAPES, SIZES, Scene, distance, draw, mask, scenes
from clipgen.shapes.judge import Verdict, judge, judge_many

VISIBLE = 0.25  # least share of a shape's area that is damaged
ANYTHING = scenes(1000, seed=10)


def share_right(made: list[Scene], verdicts: list[Verdict]) -> float:
    names = ("shape", "colour", "background", "size")
    return np.mean([all(getattr(s, n) == getattr(v, n) for n in names) for s, v in zip(made, verdicts, strict=True)])


def share_none(verdicts: list[Verdict]) -> float:
    return np.mean([verdict.shape is None for verdict in verdicts])


def paint(covered: np.ndarray, scene: Scene) -> np.ndarray:
    alpha = covered[..., None]
    mixed = alpha * np.array(COLOURS[scene.colour]) + (1 - alpha) * np.array(COLOURS[scene.background])
    return np.round(mixed).astype(np.uint8)


def around(scene: Scene, image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Offsets of every pixel from the scene's centre, in radii."""
    centres = (np.arange(image_size) + 0.5) / image_size
    return np.meshgrid((centres - scene.x) / scene.radius, (centres - scene.y) / scene.radius)


# --- what must be read ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("image_size", "n"), [(32, 2000), (64, 500)])
def test_drawn_pictures_are_read(image_size, n):
    made = scenes(n, seed=11)
    verdicts = judge_many(draw(scene, image_size) for scene in made)
    assert share_right(made, verdicts) >= 0.99
    errors = [abs(getattr(s, k) - getattr(v, k)) for s, v in zip(made, verdicts, strict=True) if v.shape
              for k in ("x", "y", "radius")]  # fmt: skip
    assert np.quantile(errors, 0.99) < 0.02


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_read_in_every_pair_of_colours(shape):
    pairs = [(a, b) for a in COLOURS for b in COLOURS if a != b]
    for size, radius in (("small", SIZES["small"][0]), ("large", SIZES["large"][1])):
        made = [Scene(shape, a, b, size, radius, 0.47, 0.52, -15.0) for a, b in pairs]
        assert share_right(made, judge_many(map(draw, made))) >= 0.98


def noisy(rng: np.random.Generator, scene: Scene, image_size: int) -> np.ndarray:
    """Noise of sigma 8 over a shift of up to 15 per channel."""
    noise = rng.normal(0, 8, (image_size, image_size, 3)) + rng.uniform(-15, 15, 3)
    return np.clip(draw(scene, image_size) + noise, 0, 255).round().astype(np.uint8)


def off_colour(rng: np.random.Generator, scene: Scene, image_size: int) -> np.ndarray:
    """Foreground and background each shifted by up to 25 per channel."""
    alpha = mask(scene, image_size)[..., None]
    front, back = (np.array(COLOURS[c]) + rng.uniform(-25, 25, 3) for c in (scene.colour, scene.background))
    return np.clip(alpha * front + (1 - alpha) * back, 0, 255).round().astype(np.uint8)


def softened(rng: np.random.Generator, scene: Scene, image_size: int) -> np.ndarray:
    """Edges blurred by 0.7 px of 32."""
    return blurred(draw(scene, image_size), 0.7 * image_size / 32)


def waves(rng: np.random.Generator, scene: Scene, image_size: int) -> np.ndarray:
    """A ripple of one pixel: lighter and darker rows or columns in turn."""
    rows = 15 * (-1.0) ** np.arange(image_size)
    ripple = rows[:, None] if rng.random() < 0.5 else rows[None]
    return np.clip(draw(scene, image_size) + ripple[..., None], 0, 255).round().astype(np.uint8)


def ragged(rng: np.random.Generator, scene: Scene, image_size: int) -> np.ndarray:
    """An outline that wanders by a pixel of 32: every third pixel of it moved in or out by half of that."""
    step = 0.5 * image_size / 32
    moved = rng.choice([-step, step, 0, 0, 0, 0], (image_size, image_size))
    coverage = np.clip(0.5 - signed_distance(scene, image_size) + moved, 0, 1)
    return paint(coverage, scene)


def signed_distance(scene: Scene, image_size: int) -> np.ndarray:
    u, v = around(scene, image_size)
    angle = np.deg2rad(scene.angle)
    turned = u * np.cos(angle) + v * np.sin(angle), v * np.cos(angle) - u * np.sin(angle)
    return distance(scene.shape, *turned) * scene.radius * image_size


@pytest.mark.parametrize("image_size", [32, 64])
@pytest.mark.parametrize("faulty", [noisy, off_colour, softened, waves, ragged], ids=lambda f: f.__name__)
def test_faults_of_a_good_reconstruction_are_tolerated(faulty, image_size):
    rng = np.random.default_rng(12)
    made = scenes(400, seed=13)
    assert share_right(made, judge_many(faulty(rng, scene, image_size) for scene in made)) >= 0.97


# --- what must be refused -------------------------------------------------------------------------------------------


def bitten(rng: np.random.Generator, scene: Scene, image_size: int) -> np.ndarray:
    """A round piece is missing from the rim; a bite from the middle of a circle would make a ring."""
    covered = mask(scene, image_size)
    u, v = around(scene, image_size)
    while True:
        turn, reach, radius = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.0), rng.uniform(0.5, 0.9)
        left = covered * (np.hypot(u - reach * np.cos(turn), v - reach * np.sin(turn)) > radius)
        if reach + radius > 1 and VISIBLE <= 1 - left.sum() / covered.sum() <= 0.6:
            return paint(left, scene)


def halves_apart(rng: np.random.Generator, scene: Scene, image_size: int) -> np.ndarray:
    """Cut through the middle, the halves moved apart by 0.7 to 1.2 radii."""
    turn, gap = rng.uniform(0, np.pi), rng.uniform(0.35, 0.6)
    u, v = around(scene, image_size)
    side = u * np.cos(turn) + v * np.sin(turn)
    step = gap * scene.radius * np.array([np.cos(turn), np.sin(turn)])
    parts = [
        mask(replace(scene, x=scene.x + sign * step[0], y=scene.y + sign * step[1]), image_size) * (sign * side > 0)
        for sign in (-1, 1)
    ]
    return paint(np.maximum(*parts), scene)


def half_erased(rng: np.random.Generator, scene: Scene, image_size: int) -> np.ndarray:
    """Half is missing, at any angle. The top half of a triangle is one; the bar has room for that."""
    turn = rng.uniform(0, 2 * np.pi)
    u, v = around(scene, image_size)
    return paint(mask(scene, image_size) * (u * np.cos(turn) + v * np.sin(turn) < 0), scene)


def patched(rng: np.random.Generator, scene: Scene, image_size: int) -> np.ndarray:
    """Quadrants or halves of two shapes, at least a quarter away from either."""
    u, v = around(scene, image_size)
    while True:
        parents = [mask(replace(scene, shape=shape), image_size) for shape in rng.permutation(SHAPES)[:2]]
        first = [u * v > 0, u > 0, v > 0][rng.integers(3)]
        mixed = np.where(first, *parents)
        if min(np.abs(mixed - parent).sum() / parent.sum() for parent in parents) >= VISIBLE:
            return paint(mixed, scene)


def scattered(rng: np.random.Generator, scene: Scene, image_size: int) -> np.ndarray:
    """A shape's own pixels, anywhere."""
    return paint(rng.permutation(mask(scene, image_size).ravel()).reshape(image_size, image_size), scene)


def speckled(rng: np.random.Generator, scene: Scene, image_size: int) -> np.ndarray:
    """A fiftieth to half of the background's pixels in one colour, in the palette's, or in any."""
    picture = np.empty((image_size, image_size, 3), np.uint8)
    picture[:] = COLOURS[scene.background]
    where = rng.random((image_size, image_size)) < rng.uniform(0.02, 0.5)
    palette = np.array(list(COLOURS.values()))
    choices = [COLOURS[scene.colour], rng.choice(palette, where.sum()), rng.integers(0, 256, (where.sum(), 3))]
    picture[where] = choices[rng.integers(3)]
    return picture


def blank(rng: np.random.Generator, scene: Scene, image_size: int) -> np.ndarray:
    """One colour: of the palette, or any."""
    colour = COLOURS[scene.background] if rng.random() < 0.5 else rng.integers(0, 256, 3)
    return np.full((image_size, image_size, 3), colour, np.uint8)


def uniform_noise(rng: np.random.Generator, scene: Scene, image_size: int) -> np.ndarray:
    return rng.integers(0, 256, (image_size, image_size, 3), dtype=np.uint8)


def two_objects(rng: np.random.Generator, scene: Scene, image_size: int) -> np.ndarray:
    """A second object that does not touch the first, in its colour or another."""
    while True:
        other = ANYTHING[rng.integers(len(ANYTHING))]
        if other.colour == scene.background or rng.random() < 0.5:
            other = replace(other, colour=scene.colour)
        first, second = mask(scene, image_size), mask(other, image_size)
        if not (first * second).any():
            alpha = second[..., None]
            return (alpha * COLOURS[other.colour] + (1 - alpha) * paint(first, scene)).round().astype(np.uint8)
        place = ANYTHING[rng.integers(len(ANYTHING))]  # a large shape in the middle leaves no room
        scene = replace(place, colour=scene.colour, background=scene.background)


def blurred(picture: np.ndarray, radius: float) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius)))


def blurry(rng: np.random.Generator, scene: Scene, image_size: int) -> np.ndarray:
    """Blurred by a sixteenth of the side and more (2 px at 32): an edge is then as wide as a small shape's radius,
    corners are gone and small rings have lost their hole. At 1 px all shapes can be named."""
    return blurred(draw(scene, image_size), rng.uniform(2.0, 3.0) * image_size / 32)


NEGATIVES = (
    bitten,
    halves_apart,
    half_erased,
    patched,
    scattered,
    speckled,
    blank,
    uniform_noise,
    two_objects,
    blurry,
)


@pytest.mark.parametrize(("image_size", "n"), [(32, 400), (64, 200)])
@pytest.mark.parametrize("negative", NEGATIVES, ids=lambda f: f.__name__)
def test_none_is_the_answer_to(negative, image_size, n):
    rng = np.random.default_rng(14)
    verdicts = judge_many(negative(rng, scene, image_size) for scene in scenes(n, seed=15))
    assert share_none(verdicts) >= 0.95
    assert all(verdict.size is None for verdict in verdicts if verdict.shape is None)


@pytest.mark.parametrize("image_size", [32, 64])
def test_a_pair_overlapping_in_two_colours_is_not_one_object(image_size):
    """The left half of the shape is of another colour: no one colour, or not the whole shape."""
    made = scenes(200, seed=16)
    others = scenes(200, seed=17)
    pictures = []
    for scene, other in zip(made, others, strict=True):
        colour = next(c for c in (other.colour, *COLOURS) if c not in (scene.colour, scene.background))
        left = around(scene, image_size)[0] < 0
        picture, recoloured = draw(scene, image_size), draw(replace(scene, colour=colour), image_size)
        pictures.append(np.where(left[..., None], recoloured, picture))
    assert share_none(judge_many(pictures)) >= 0.95


@pytest.mark.parametrize("broken", [bitten, half_erased, patched], ids=lambda f: f.__name__)
def test_a_broken_shape_keeps_its_colours(broken):
    rng = np.random.default_rng(18)
    made = scenes(300, seed=19)
    verdicts = judge_many(broken(rng, scene, 32) for scene in made)
    assert np.mean([v.colour == s.colour for s, v in zip(made, verdicts, strict=True)]) >= 0.98
    assert np.mean([v.background == s.background for s, v in zip(made, verdicts, strict=True)]) >= 0.98


def test_noise_has_no_colours_and_a_blank_has_a_background():
    rng = np.random.default_rng(20)
    scene = scenes(1, seed=21)[0]
    assert judge(uniform_noise(rng, scene, 32)) == Verdict.NONE
    assert judge(np.full((32, 32, 3), COLOURS["green"], np.uint8)) == Verdict(background="green")
    speckles = judge_many(speckled(rng, scene, 32) for scene in scenes(200, seed=22))
    assert np.mean([verdict.colour is None for verdict in speckles]) >= 0.95


@pytest.mark.parametrize("image_size", [32, 64])
def test_extreme_pictures_are_survived(image_size):
    full = partial(np.full, (image_size, image_size, 3), dtype=np.uint8)
    dot, frame = full(255), full(0)
    dot[5, 5] = 0
    frame[8:-8, 8:-8] = 255
    for picture in (full(0), full(128), full(255), dot, frame):
        assert judge(picture).shape in (None, "square")
