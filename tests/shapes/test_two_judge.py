"""The judge of two objects: what it must read, and what it must refuse."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFilter

from clipgen.shapes.draw import COLOURS, mask
from clipgen.shapes.two import Several, draw, scenes
from clipgen.shapes.two_judge import Seen, judge, judge_many, shares

RED_CIRCLE, WHITE_RING, RED_RING, WHITE_CIRCLE = (
    ("circle", "red"), ("ring", "white"), ("ring", "red"), ("circle", "white"),
)  # fmt: skip


def share_right(made: list[Several], verdicts: list[Seen]) -> float:
    return np.mean([v.named == s.named and v.background == s.background for s, v in zip(made, verdicts, strict=True)])


def share_none(pictures) -> float:
    verdicts = judge_many(picture for picture in pictures if picture is not None)
    assert len(verdicts) > 50
    return np.mean([verdict.named is None for verdict in verdicts])


@pytest.mark.parametrize(("image_size", "n"), [(32, 500), (64, 100)])
def test_every_drawn_picture_is_read(image_size, n):
    made = scenes(n, seed=11)
    assert share_right(made, judge_many(draw(scene, image_size) for scene in made)) == 1


def noisy(rng, picture):
    """Noise of sigma 8 over a shift of up to 15 per channel."""
    return picture + rng.normal(0, 8, picture.shape) + rng.uniform(-15, 15, 3)


def softened(rng, picture):
    """Edges blurred by 0.7 px of 32."""
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(0.7)))


def waves(rng, picture):
    """A ripple of one pixel."""
    return picture + (15 * (-1.0) ** np.arange(len(picture)))[:, None, None]


@pytest.mark.parametrize("faulty", [noisy, softened, waves], ids=lambda f: f.__name__)
def test_faults_of_a_good_reconstruction_are_tolerated(faulty):
    rng, made = np.random.default_rng(12), scenes(200, seed=13)
    pictures = [np.clip(faulty(rng, draw(scene, 32)), 0, 255).round().astype(np.uint8) for scene in made]
    assert share_right(made, judge_many(pictures)) >= 0.96


def with_one(scene: Several, change) -> Several:
    first, *others = scene.objects
    return replace(scene, objects=(change(first), *others))


def halved(scene: Several, rng) -> np.ndarray:
    """Half of one object is missing."""
    first = scene.objects[0]
    picture, turn = draw(scene, 32), rng.uniform(0, 2 * np.pi)
    centres = (np.arange(32) + 0.5) / 32
    u, v = np.meshgrid(centres - first.x, centres - first.y)
    near = (np.hypot(u, v) < first.radius + 0.03) & (u * np.cos(turn) + v * np.sin(turn) > 0)
    return np.where(near[..., None], np.array(COLOURS[scene.background], np.uint8), picture)


def on_each_other(scene: Several, rng, least: float, most: float) -> np.ndarray | None:
    """The second object lies on the first, of which a share of `least` to `most` can be seen; None if it never does."""
    first, second, *others = scene.objects
    below = mask(first, 32)
    for _ in range(50):
        turn, away = rng.uniform(0, 2 * np.pi), rng.uniform(0, first.radius + second.radius)
        second = replace(second, x=first.x + away * np.cos(turn), y=first.y + away * np.sin(turn))
        if least <= (below * (1 - mask(second, 32))).sum() / below.sum() <= most:
            return draw(replace(scene, objects=(first, second, *others)), 32)
    return None


def looking_out(scene: Several, rng) -> np.ndarray:
    """A part of another colour looks out from under an object: that object is no whole one."""
    first, second = scene.objects[:2]
    if first.colour == second.colour:  # its colour tells it from the other
        free = [each for each in COLOURS if each not in (first.colour, scene.background)]
        scene = with_one(scene, lambda each: replace(each, colour=free[0]))
    return on_each_other(scene, rng, 0.15, 0.5)


def melted(scene: Several, rng) -> np.ndarray:
    """Two objects of one colour in one piece, of each of which most can be seen."""
    return on_each_other(with_one(scene, lambda each: replace(each, colour=scene.objects[1].colour)), rng, 0.6, 0.9)


def blurry(scene: Several, rng) -> np.ndarray:
    return np.asarray(Image.fromarray(draw(scene, 32)).filter(ImageFilter.GaussianBlur(rng.uniform(2, 3))))


def speckled(scene: Several, rng) -> np.ndarray:
    where = rng.random((32, 32)) < rng.uniform(0.05, 0.5)
    palette = np.array(list(COLOURS.values()), np.uint8)
    return np.where(where[..., None], palette[rng.integers(len(palette), size=(32, 32))], draw(scene, 32))


def huge(scene: Several, rng) -> np.ndarray:
    """One object as large as the demo world's large ones: not of this world."""
    return draw(replace(scene, objects=(replace(scene.objects[0], radius=0.3, x=0.5, y=0.5),)), 32)


def blank(scene: Several, rng) -> np.ndarray:
    return np.full((32, 32, 3), COLOURS[scene.background], np.uint8)


def uniform_noise(scene: Several, rng) -> np.ndarray:
    return rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("negative", [halved, looking_out, melted, blurry, speckled, huge, blank, uniform_noise],
                         ids=lambda f: f.__name__)  # fmt: skip
def test_none_is_the_answer_to(negative):
    rng = np.random.default_rng(14)
    made = [scene for scene in scenes(200, seed=15) if len(scene.objects) > 1]
    assert share_none(negative(scene, rng) for scene in made) >= (0.9 if negative is melted else 0.95)


def test_alike_objects_nearly_on_each_other_are_at_most_one():
    """At 32 px such two are one dented shape, to a person too; they are never counted as the two that were drawn."""
    rng = np.random.default_rng(17)
    made = [scene for scene in scenes(200, seed=17) if len(scene.objects) > 1 and len(set(scene.named)) == 1]
    pictures = [(len(scene.named), on_each_other(scene, rng, 0, 0.5)) for scene in made]
    verdicts = [(n, judge(picture).named) for n, picture in pictures if picture is not None]
    assert len(verdicts) > 50 and {n - len(named) for n, named in verdicts if named} == {1}


def test_a_blank_has_a_background_and_noise_has_nothing():
    assert judge(np.full((32, 32, 3), COLOURS["green"], np.uint8)) == Seen("green")
    assert judge(uniform_noise(None, np.random.default_rng(0))) == Seen()


def test_an_object_more_or_less_is_another_number():
    made = [scene for scene in scenes(200, seed=16) if len(scene.objects) == 3]
    fewer = [replace(scene, objects=scene.objects[1:]) for scene in made]
    verdicts = judge_many(draw(scene, 32) for scene in fewer)
    assert all(
        verdict.named == scene.named and len(verdict.named) == 2 for scene, verdict in zip(fewer, verdicts, strict=True)
    )


def test_a_pair_is_told_from_the_same_with_its_colours_swapped():
    asked = (RED_CIRCLE, WHITE_RING)
    right, swapped, one = (
        Seen("blue", asked),
        Seen("blue", tuple(sorted((RED_RING, WHITE_CIRCLE)))),
        Seen("blue", asked[:1]),
    )
    found = shares(asked, "blue", [right, swapped, one, Seen("blue")])
    assert found == {
        "background": 1,
        "none": 0.25,
        "shape": 0.5,
        "colour": 0.5,
        "binding": 0.25,
        "swapped": 0.25,
        "all": 0.25,
    }
    assert shares(asked, "green", [right])["all"] == 0 and shares(asked, "green", [right])["binding"] == 1


def test_a_number_is_right_whatever_there_is_but_all_is_not():
    found = shares((RED_CIRCLE,) * 2, "blue", [Seen("blue", (RED_CIRCLE,) * 2), Seen("blue", (WHITE_RING,) * 2),
                                               Seen("blue", (RED_CIRCLE,) * 3), Seen("blue")])  # fmt: skip
    assert found == {"background": 1, "none": 0.25, "count": 0.5, "all": 0.25}


def test_objects_of_any_kind_together_are_read_too():
    """What a generator makes need not be one of the world's scenes: a pair of one colour, four objects, …"""
    made = []
    for scene in scenes(200, seed=18):
        if len(set(scene.named)) == 2:
            made.append(with_one(scene, lambda each, s=scene: replace(each, colour=s.objects[1].colour)))
    assert share_right(made, judge_many(draw(scene, 32) for scene in made)) == 1
