from dataclasses import replace

import numpy as np
import pytest

from clipgen.shapes.draw import (
    COLOURS,
    MARGIN,
    MAX_ANGLE,
    SHAPES,
    SIZE_WORDS,
    SIZES,
    Scene,
    caption,
    combinations,
    distance,
    draw,
    held_out,
    mask,
    partial_caption,
    scenes,
    world,
)

CENTRED = Scene("circle", "red", "blue", "large", 0.3, 0.5, 0.5, 0.0)


def test_a_tenth_of_all_combinations_is_held_out():
    assert len(combinations()) == len(SHAPES) * len(COLOURS) * (len(COLOURS) - 1)
    assert len(held_out()) == round(0.1 * len(combinations()))
    assert held_out() < set(combinations())


def test_every_word_occurs_outside_the_held_out_combinations():
    shown = set(combinations()) - held_out()
    assert {shape for shape, _, _ in shown} == set(SHAPES)
    assert {(shape, colour) for shape, colour, _ in shown} == {(s, c) for s in SHAPES for c in COLOURS}
    assert {background for _, _, background in shown} == set(COLOURS)


def test_no_scene_of_training_is_held_out():
    made = scenes(20_000, seed=0)
    assert not {scene.combination for scene in made} & held_out()
    assert {scene.combination for scene in made} == set(combinations()) - held_out()


def test_scenes_of_chosen_combinations():
    only = sorted(held_out())[:3]
    assert {scene.combination for scene in scenes(100, seed=0, only=only)} == set(only)


def test_scenes_keep_to_their_ranges():
    for scene in scenes(2000, seed=1):
        low, high = SIZES[scene.size]
        assert low <= scene.radius <= high
        assert abs(scene.angle) <= MAX_ANGLE
        assert all(scene.radius + MARGIN <= at <= 1 - scene.radius - MARGIN for at in (scene.x, scene.y))
        assert scene.colour != scene.background


def test_the_same_seed_gives_the_same_world():
    first, again, other = (list(world(5, seed)) for seed in (3, 3, 4))
    for (scene, picture, text), (same_scene, same_picture, same_text) in zip(first, again, strict=True):
        assert scene == same_scene and text == same_text and np.array_equal(picture, same_picture)
    assert [scene for scene, _, _ in first] != [scene for scene, _, _ in other]


@pytest.mark.parametrize("image_size", [32, 64])
@pytest.mark.parametrize("shape", SHAPES)
def test_no_shape_touches_the_border(shape, image_size):
    for scene in scenes(300, seed=2):
        covered = mask(replace(scene, shape=shape), image_size)
        assert max(side.max() for side in (covered[0], covered[-1], covered[:, 0], covered[:, -1])) < 0.5


def test_a_picture_has_its_two_colours():
    picture = draw(CENTRED)
    assert picture.shape == (32, 32, 3) and picture.dtype == np.uint8
    assert tuple(picture[16, 16]) == COLOURS["red"]
    assert tuple(picture[0, 0]) == COLOURS["blue"]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_centre_of_mass_is_the_centre(shape):
    """The judge relies on it to place its templates."""
    scene = replace(CENTRED, shape=shape, x=0.45, y=0.55, angle=10.0)
    covered = mask(scene, 64)
    centres = (np.arange(64) + 0.5) / 64
    assert covered.sum(0) @ centres / covered.sum() == pytest.approx(scene.x, abs=0.005)
    assert covered.sum(1) @ centres / covered.sum() == pytest.approx(scene.y, abs=0.005)


@pytest.mark.parametrize("shape", SHAPES)
def test_coverage_adds_up_to_the_area(shape):
    grid = np.arange(-1.2, 1.2, 0.01) + 0.005
    area = (distance(shape, *np.meshgrid(grid, grid)) < 0).mean() * 2.4**2
    covered = mask(replace(CENTRED, shape=shape), 64).sum() / 64**2
    assert covered == pytest.approx(area * CENTRED.radius**2, rel=0.03)


def test_an_unknown_shape_is_named_in_the_error():
    with pytest.raises(ValueError, match="blob"):
        distance("blob", np.zeros(1), np.zeros(1))


def test_a_caption_says_what_the_picture_shows_and_not_where():
    rng = np.random.default_rng(0)
    n_sized = 0
    for scene in scenes(500, seed=3):
        words = caption(scene, rng).replace(",", "").split()
        assert {scene.shape, scene.colour, scene.background} <= set(words)
        assert not {"left", "right", "top", "bottom"} & set(words)
        sizes = {size for size, names in SIZE_WORDS.items() if set(names) & set(words)}
        assert sizes <= {scene.size}
        n_sized += len(sizes)
    assert 0.6 < n_sized / 500 < 0.8


def test_a_partial_caption_leaves_each_thing_out_at_the_given_rate_and_says_nothing_false():
    rng = np.random.default_rng(0)
    drawn = scenes(4000, 3)
    named = {name: 0 for name in ("shape", "colour", "background", "size")}
    for scene in drawn:
        text = partial_caption(scene, rng, 0.5)
        assert "{" not in text and not text.endswith(",")
        words = text.replace(",", "").split()
        said = {word for word in words if word in COLOURS}
        assert said <= {scene.colour, scene.background}
        assert {word for word in words if word in SHAPES} <= {scene.shape}
        assert {size for size, known in SIZE_WORDS.items() if set(known) & set(words)} <= {scene.size}
        named["shape"] += scene.shape in words
        named["size"] += bool(set(SIZE_WORDS[scene.size]) & set(words))
        named["colour"] += scene.colour in words
        named["background"] += scene.background in words
    assert all(0.45 < count / len(drawn) < 0.55 for count in named.values()), named
