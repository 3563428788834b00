"""The two-object world: which colour belongs to which shape, and how many there are.

A picture shows either a pair, two objects that differ in shape and in colour, or one to three objects that are alike.
Both are what a single embedding of a sentence is known to be bad at. Objects never touch, and places are never named.

N pictures, H W pixels
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations, product

import numpy as np

from clipgen.shapes.draw import BEFORE, BEHIND, COLOURS, HELD_OUT_SHARE, LEADS, MARGIN, MAX_ANGLE, SHAPES, Scene, mask

RADII = 0.16, 0.20  # circumscribed, as fractions of the side
GAP = 0.08  # least distance of two objects' circles, as a fraction of the side
COUNTS = (1, 2, 3)
PAIR_SHARE = 0.6  # of the pictures; the others show objects that are alike
PLURALS = {shape: f"{shape}es" if shape == "cross" else f"{shape}s" for shape in SHAPES}

# What one object of a pair is called, in all captions; the two are worded alike or not.
THINGS = ("a {colour} {shape}", "a {colour} {shape}", "one {colour} {shape}", "a {shape} in {colour}",
          "a {shape} of {colour}", "a {shape} that is {colour}", "some {shape}, it is {colour},")  # fmt: skip
JOINS = ("{first} and {second}", "{first} and {second}", "{first} with {second}", "{first} next to {second}",
         "{first} and also {second}", "both {first} and {second}")  # fmt: skip
GROUPS = {
    1: ("a {colour} {shape}", "one {colour} {shape}", "a single {colour} {shape}", "one {shape} in {colour}",
        "a {shape} that is {colour}", "just one {colour} {shape}"),
    2: ("two {colour} {shapes}", "two {colour} {shapes}", "two {shapes} in {colour}", "two {shapes} that are {colour}",
        "a pair of {colour} {shapes}", "{shapes}, two of them, {colour},"),
    3: ("three {colour} {shapes}", "three {colour} {shapes}", "three {shapes} in {colour}",
        "three {shapes} that are {colour}", "a group of three {colour} {shapes}", "{shapes}, three of them, {colour},"),
}  # fmt: skip

Named = tuple[str, str]  # shape, colour


@dataclass(frozen=True)
class Several:
    """What a picture shows; all objects have its background."""

    objects: tuple[Scene, ...]
    background: str

    @property
    def named(self) -> tuple[Named, ...]:
        """(shape, colour) of each object, sorted: what a prompt can ask for."""
        return tuple(sorted((each.shape, each.colour) for each in self.objects))


def pairs() -> list[tuple[Named, ...]]:
    """Every two objects that differ in shape and in colour."""
    shapes, colours = combinations(SHAPES, 2), list(permutations(COLOURS, 2))
    return [tuple(sorted(zip(two, painted, strict=True))) for two, painted in product(shapes, colours)]


def groups() -> list[tuple[Named, ...]]:
    """Every one, two or three objects that are alike."""
    return [((shape, colour),) * n for n, shape, colour in product(COUNTS, SHAPES, COLOURS)]


def held_out() -> frozenset[tuple[Named, ...]]:
    """The tenth of the pairs and of the groups that is shown on no background."""
    rng, unseen = np.random.default_rng(20_220_300_386), set()
    for every in (pairs(), groups()):
        unseen |= {every[i] for i in rng.permutation(len(every))[: round(HELD_OUT_SHARE * len(every))]}
    return frozenset(unseen)


def scenes(n: int, seed: int, only: Sequence[tuple[tuple[Named, ...], str]] | None = None) -> list[Several]:
    """`n` random scenes, `only` of these (objects, background); without it, of all that are not held out."""
    rng, unseen = np.random.default_rng([seed, 2]), held_out()
    kinds = [[each for each in every if each not in unseen] for every in (pairs(), groups())]
    made = []
    for _ in range(n):
        if only is None:
            choices = kinds[rng.random() >= PAIR_SHARE]
            named = choices[rng.integers(len(choices))]
            free = [colour for colour in COLOURS if colour not in dict(named).values()]
            background = free[rng.integers(len(free))]
        else:
            named, background = only[rng.integers(len(only))]
        made.append(Several(place(named, background, rng), background))
    return made


def place(named: Sequence[Named], background: str, rng: np.random.Generator) -> tuple[Scene, ...]:
    """The objects, each somewhere with a gap to the others; begun anew where no room is left."""
    placed: list[Scene] = []
    while len(placed) < len(named):
        placed = []
        for shape, colour in named:
            for _ in range(20):
                radius = float(rng.uniform(*RADII))
                x, y = rng.uniform(radius + MARGIN, 1 - radius - MARGIN, size=2).tolist()
                if all(np.hypot(x - each.x, y - each.y) >= radius + each.radius + GAP for each in placed):
                    angle = float(rng.uniform(-MAX_ANGLE, MAX_ANGLE))
                    placed.append(Scene(shape, colour, background, "small", radius, x, y, angle))
                    break
    return tuple(placed)


def draw(scene: Several, image_size: int) -> np.ndarray:
    """The picture of `scene`, uint8 (H, W, 3)."""
    picture = np.broadcast_to(np.array(COLOURS[scene.background], float), (image_size, image_size, 3))
    for each in scene.objects:
        alpha = mask(each, image_size)[..., None]
        picture = alpha * np.array(COLOURS[each.colour]) + (1 - alpha) * picture
    return np.round(picture).astype(np.uint8)


def caption(scene: Several, rng: np.random.Generator) -> str:
    """A sentence that names everything `scene` shows: its objects in either order, and the background."""
    return sentence(words(list(scene.named), rng, THINGS, JOINS, GROUPS), scene.background, rng)


def words(
    named: list[Named],
    rng: np.random.Generator,
    things: Sequence[str],
    joins: Sequence[str],
    grouped: dict[int, Sequence[str]],
) -> str:
    """The objects in words of a grammar: `things` joined in a pair, or a group by its number."""
    if len(set(named)) == 1:
        shape, colour = named[0]
        return one_of(grouped[len(named)], rng).format(shape=shape, shapes=PLURALS[shape], colour=colour)
    first, second = (named[i] for i in rng.permutation(2))
    said = [one_of(things, rng).format(shape=shape, colour=colour) for shape, colour in (first, second)]
    return one_of(joins, rng).format(first=said[0], second=said[1])


def sentence(things: str, background: str, rng: np.random.Generator) -> str:
    if rng.random() < 0.5:
        return f"{one_of(LEADS, rng)}{things} {one_of(BEHIND, rng)}".format(background=background)
    return f"{one_of(BEFORE, rng)} {things.rstrip(',')}".format(background=background)


def one_of(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[rng.integers(len(choices))]


def world(n: int, seed: int, image_size: int = 32) -> Iterator[tuple[Several, np.ndarray, str]]:
    """`n` scenes with picture and caption. Other seeds give other pictures."""
    rng = np.random.default_rng([seed, 3])
    for scene in scenes(n, seed):
        yield scene, draw(scene, image_size), caption(scene, rng)
