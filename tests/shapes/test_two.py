"""The two-object world: what is drawn, and what its captions say."""

import re
from collections import Counter

import numpy as np
import pytest

from clipgen.shapes import two
from clipgen.shapes.draw import COLOURS, MARGIN, SHAPES, mask
from clipgen.shapes.two import COUNTS, PLURALS, caption, draw, groups, held_out, pairs, scenes, world

NUMBERS = {"a": 1, "one": 1, "some": 1, "single": 1, "two": 2, "pair": 2, "three": 3}
SINGULAR = {plural: shape for shape, plural in PLURALS.items()} | {shape: shape for shape in SHAPES}


@pytest.fixture(scope="module")
def drawn():
    return scenes(800, seed=1)


def test_every_pair_differs_in_shape_and_in_colour():
    assert len(pairs()) == len(set(pairs())) == 15 * 56
    assert all(len(pair) == 2 and pair[0][0] != pair[1][0] and pair[0][1] != pair[1][1] for pair in pairs())
    assert len(groups()) == len(set(groups())) == 3 * 6 * 8
    assert {len(group) for group in groups()} == set(COUNTS)


def test_objects_lie_apart_inside_the_picture_and_can_be_seen(drawn):
    for scene in drawn:
        for i, each in enumerate(scene.objects):
            assert each.x - each.radius >= MARGIN and each.x + each.radius <= 1 - MARGIN
            assert each.y - each.radius >= MARGIN and each.y + each.radius <= 1 - MARGIN
            assert each.colour != scene.background
            for other in scene.objects[:i]:
                assert not (mask(each, 32) * mask(other, 32)).any()


def test_a_picture_has_the_colours_of_its_scene_and_no_other(drawn):
    for scene in drawn[:50]:
        picture = draw(scene, 32)
        assert tuple(picture[0, 0]) == COLOURS[scene.background]
        for each in scene.objects:
            inside = mask(each, 32) == 1
            assert (picture[inside] == COLOURS[each.colour]).all() and inside.any()
        covered = sum(mask(each, 32) for each in scene.objects) > 0
        assert (picture[~covered] == COLOURS[scene.background]).all()


def test_pairs_and_every_number_are_drawn_and_nothing_that_is_held_out(drawn):
    kinds = Counter("pair" if len(set(scene.named)) == 2 else len(scene.named) for scene in drawn)
    assert 0.5 < kinds["pair"] / len(drawn) < 0.7 and all(kinds[n] > 60 for n in COUNTS)
    unseen = held_out()
    assert not [scene for scene in drawn if scene.named in unseen]
    assert len(unseen) == 84 + 14 and held_out() == unseen


def test_scenes_of_what_is_asked_for_alone():
    wanted = ((("circle", "red"), ("ring", "white")), "blue")
    assert all((scene.named, scene.background) == wanted for scene in scenes(5, 3, only=[wanted]))


def read(text: str) -> tuple[tuple, str]:
    """What a caption says, by its words alone: (shape, colour) of each object, sorted, and the background."""
    spots = [(word in COLOURS, word) for word in re.findall(r"\w+", text) if word in COLOURS or word in SINGULAR]
    nouns = [SINGULAR[word] for is_colour, word in spots if not is_colour]
    colours = [word for is_colour, word in spots if is_colour]
    at_end = spots[-1][0] and len(colours) - len(nouns) == 1 and not text.startswith(tuple(behind(colours[0])))
    background = colours.pop(-1 if at_end else 0)
    if len(nouns) == 2:
        return tuple(sorted(zip(nouns, colours, strict=True))), background
    number = max(NUMBERS.get(word, 0) for word in re.findall(r"\w+", text.replace("in a", "").replace("picture", "")))
    return ((nouns[0], colours[0]),) * number, background


def behind(background: str) -> list[str]:
    return [form.format(background=background) for form in two.BEFORE]


def test_a_caption_names_everything_and_binds_it_right(drawn):
    rng = np.random.default_rng(4)
    for scene in drawn:
        text = caption(scene, rng)
        assert read(text) == (scene.named, scene.background), text


def test_captions_are_worded_in_many_ways_and_both_orders(drawn):
    rng = np.random.default_rng(5)
    pair = next(scene for scene in drawn if len(set(scene.named)) == 2)
    texts = [caption(pair, rng) for _ in range(200)]
    assert len(set(texts)) > 150
    first = Counter(min(pair.named, key=lambda named: text.index(named[0]))[0] for text in texts)
    assert min(first.values()) > 60 and len(first) == 2


def test_the_same_seed_gives_the_same_pictures_and_another_gives_others():
    one, same, other = ([(text, picture.tobytes()) for _, picture, text in world(6, seed, 32)] for seed in (1, 1, 2))
    assert one == same and not set(one) & set(other)
