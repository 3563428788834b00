"""The demo world: one coloured shape on a coloured background, with everything about it known.

Pictures are drawn from signed distances, so edges are anti-aliased and a thousand pictures take a fraction of a second.

N pictures, H W pixels
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product

import numpy as np

SHAPES = ("circle", "square", "triangle", "cross", "ring", "diamond")
COLOURS = {
    "red": (214, 39, 40),
    "orange": (255, 140, 0),
    "yellow": (250, 225, 40),
    "green": (40, 160, 60),
    "blue": (40, 80, 220),
    "purple": (140, 50, 170),
    "white": (245, 245, 245),
    "black": (20, 20, 20),
}
SIZES = {"small": (0.18, 0.22), "large": (0.28, 0.34)}  # circumscribed radius, as a fraction of the image's side
MAX_ANGLE = 15.0  # degrees, either way
MARGIN = 0.03  # least distance of a shape from the border, as a fraction of the side
HELD_OUT_SHARE = 0.1

SIZE_WORDS = {"small": ("small", "tiny", "little"), "large": ("large", "big", "huge")}
# A caption is an object and a background, in either order. Many wordings make the CLIP read words and not positions;
# the reworded prompts (prompts.py) are sentences that none of these give.
OBJECTS = (
    "a {size} {colour} {shape}",
    "a {size} {colour} {shape}",
    "one {size} {colour} {shape}",
    "a {colour} {shape}, {size},",
    "a {size} {shape} in {colour}",
    "a {size} {shape} of {colour}",
    "a {shape} that is {colour} and {size}",
    "a {size} and {colour} {shape}",
    "some {shape}, it is {colour} and {size},",
)
UNSIZED_OBJECTS = (
    "a {colour} {shape}",
    "a {colour} {shape}",
    "one {colour} {shape}",
    "the {colour} {shape}",
    "a {shape} in {colour}",
    "some {shape} of {colour}",
    "a {shape} that is {colour}",
    "the {shape}, it is {colour},",
)
BEHIND = (
    "on a {background} background",
    "on a {background} background",
    "on {background}",
    "over a {background} background",
    "on a background that is {background}",
    "with {background} around it",
    "and the background is {background}",
    "in a picture of {background}",
    "over a background of {background} colour",
)
BEFORE = (
    "{background} background with",
    "on {background},",
    "over {background} is",
    "{background} around",
    "the background is {background} and on it is",
    "in a {background} picture there is",
    "a picture with a background of {background} and",
    "the background is {background},",
    "the background is {background} with",
    "behind it all is {background}, in front",
    "the whole background is {background} but for",
)
LEADS = ("", "there is ")
CAPTIONS, UNSIZED_CAPTIONS = (
    tuple(f"{lead}{thing} {ground}" for lead in LEADS for thing in things for ground in BEHIND)
    + tuple(f"{ground} {thing.rstrip(',')}" for thing in things for ground in BEFORE)
    for things in (OBJECTS, UNSIZED_OBJECTS)
)

# Captions that leave things out, as those of the web do: what is named of the object, then its background or nothing.
PARTS = {
    ("size", "colour", "shape"): OBJECTS,
    ("colour", "shape"): UNSIZED_OBJECTS,
    ("size", "shape"): ("a {size} {shape}", "one {size} {shape}", "a {shape}, {size},", "a {shape} that is {size}"),
    ("shape",): ("a {shape}", "one {shape}", "the {shape}", "some {shape}"),
    ("size", "colour"): ("something {size} and {colour}", "a {size} {colour} thing", "a thing, {colour} and {size},"),
    ("colour",): ("something {colour}", "a {colour} thing", "a thing in {colour}", "something, it is {colour},"),
    ("size",): ("something {size}", "a {size} thing", "one thing that is {size}"),
    (): ("something", "a thing", "a picture of something"),
}


@dataclass(frozen=True)
class Scene:
    """What a picture shows. Lengths are fractions of the image's side, the angle is in degrees."""

    shape: str
    colour: str
    background: str
    size: str
    radius: float
    x: float
    y: float
    angle: float

    @property
    def combination(self) -> tuple[str, str, str]:
        return self.shape, self.colour, self.background


def combinations() -> list[tuple[str, str, str]]:
    """Every (shape, colour, background) whose object can be seen: the two colours differ."""
    return [(s, c, b) for s, c, b in product(SHAPES, COLOURS, COLOURS) if c != b]


def held_out() -> frozenset[tuple[str, str, str]]:
    """The tenth of all combinations that neither the generator nor its CLIP is ever shown."""
    every = combinations()
    order = np.random.default_rng(20220300386).permutation(len(every))
    return frozenset(every[i] for i in order[: round(HELD_OUT_SHARE * len(every))])


def scenes(n: int, seed: int, only: list[tuple[str, str, str]] | None = None) -> list[Scene]:
    """`n` random scenes; without `only`, from all combinations that are not held out."""
    rng = np.random.default_rng(seed)
    unseen = held_out()
    choices = only or [c for c in combinations() if c not in unseen]
    made = []
    for pick in rng.integers(len(choices), size=n):
        shape, colour, background = choices[pick]
        size = list(SIZES)[rng.integers(len(SIZES))]
        radius = rng.uniform(*SIZES[size])
        x, y = rng.uniform(radius + MARGIN, 1 - radius - MARGIN, size=2)
        angle = rng.uniform(-MAX_ANGLE, MAX_ANGLE)
        made.append(Scene(shape, colour, background, size, float(radius), float(x), float(y), float(angle)))
    return made


def caption(scene: Scene, rng: np.random.Generator, named_size: float = 0.7) -> str:
    """A sentence that says what `scene` shows; its size is named with probability `named_size`, its place never."""
    words = asdict(scene)
    if rng.random() < named_size:
        template = CAPTIONS[rng.integers(len(CAPTIONS))]
        words["size"] = SIZE_WORDS[scene.size][rng.integers(len(SIZE_WORDS[scene.size]))]
    else:
        template = UNSIZED_CAPTIONS[rng.integers(len(UNSIZED_CAPTIONS))]
    return template.format(**words)


def partial_caption(scene: Scene, rng: np.random.Generator, left_out: float) -> str:
    """A caption from which size, colour, shape and background are missing with probability `left_out` each.

    A CLIP trained on such ones cannot put a picture where its caption lies: it has the modality gap of real ones.
    """
    words = asdict(scene) | {"size": SIZE_WORDS[scene.size][rng.integers(len(SIZE_WORDS[scene.size]))]}
    named = tuple(name for name in ("size", "colour", "shape") if rng.random() >= left_out)
    thing = PARTS[named][rng.integers(len(PARTS[named]))]
    lead = LEADS[rng.integers(len(LEADS))]
    if rng.random() < left_out:
        text = f"{lead}{thing.rstrip(',')}"
    elif rng.random() < 0.5:
        text = f"{lead}{thing} {BEHIND[rng.integers(len(BEHIND))]}"
    else:
        text = f"{BEFORE[rng.integers(len(BEFORE))]} {thing.rstrip(',')}"
    return text.format(**words)


def distance(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Signed distance to the outline of `shape` of circumscribed radius 1 at the origin; negative inside."""
    r = np.hypot(u, v)
    if shape == "circle":
        return r - 0.92
    if shape == "ring":
        return np.abs(r - 0.78) - 0.22
    if shape == "square":
        return np.maximum(np.abs(u), np.abs(v)) - 0.78
    if shape == "cross":
        a, b = np.abs(u), np.abs(v)
        return np.minimum(np.maximum(a - 0.95, b - 0.30), np.maximum(a - 0.30, b - 0.95))
    if shape == "triangle":  # its point is up; v grows downwards
        return np.maximum(v - 0.5, np.abs(u) * np.sqrt(3) / 2 - v / 2 - 0.5)
    if shape == "diamond":
        return (np.abs(u) / 0.62 + np.abs(v) - 1) * 0.62 / np.hypot(0.62, 1)
    raise ValueError(f"shape is {shape!r}; choose one of {', '.join(SHAPES)}")


def mask(scene: Scene, image_size: int) -> np.ndarray:
    """Coverage of each pixel by the shape, float in [0, 1], (H, W)."""
    return np.clip(0.5 - away(scene, image_size), 0.0, 1.0)


def away(scene: Scene, image_size: int) -> np.ndarray:
    """How many pixels each one lies outside of the shape, (H, W); negative inside."""
    centres = (np.arange(image_size) + 0.5) / image_size
    dx, dy = np.meshgrid(centres - scene.x, centres - scene.y)
    angle = np.deg2rad(scene.angle)
    u = (dx * np.cos(angle) + dy * np.sin(angle)) / scene.radius
    v = (-dx * np.sin(angle) + dy * np.cos(angle)) / scene.radius
    return distance(scene.shape, u, v) * scene.radius * image_size


def draw(scene: Scene, image_size: int = 32) -> np.ndarray:
    """The picture of `scene`, uint8 (H, W, 3)."""
    alpha = mask(scene, image_size)[..., None]
    picture = alpha * np.array(COLOURS[scene.colour]) + (1 - alpha) * np.array(COLOURS[scene.background])
    return np.round(picture).astype(np.uint8)


def world(n: int, seed: int, image_size: int = 32, left_out: float = 0.0) -> Iterator[tuple[Scene, np.ndarray, str]]:
    """`n` scenes with picture and caption (a partial one where `left_out`). Other seeds give other pictures."""
    rng = np.random.default_rng([seed, 1])
    for scene in scenes(n, seed):
        text = partial_caption(scene, rng, left_out) if left_out else caption(scene, rng)
        yield scene, draw(scene, image_size), text
