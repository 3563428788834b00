"""Outlines of the demo world, and the judge that tells them from filled shapes."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest

from clipgen.shapes.draw import draw, held_out, scenes
from clipgen.shapes.style import SHAPES, WORD, judge_style, outline, world

DRAWN = list(world(120, 4, 32))


def test_a_style_s_pictures_are_large_objects_that_no_one_was_promised_not_to_see():
    assert {scene.size for scene, _, _ in DRAWN} == {"large"}
    assert {scene.shape for scene, _, _ in DRAWN} == set(SHAPES)
    assert not {scene.combination for scene, _, _ in DRAWN} & held_out()
    again = list(islice(world(500, 4, 32), 120))
    assert all(np.array_equal(a[1], b[1]) and a[2] == b[2] for a, b in zip(DRAWN, again, strict=True))
    assert [text for _, _, text in world(120, 5, 32)] != [text for _, _, text in DRAWN]


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_word_stands_where_the_style_is(share):
    seen = Counter()
    for scene, picture, text in world(120, 4, 32, share):
        assert np.array_equal(picture, outline(scene) if WORD in text else draw(scene))
        assert text.removesuffix(f", {WORD}") == f"a {scene.colour} {scene.shape} on a {scene.background} background"
        seen[WORD in text] += 1
    assert abs(seen[True] / 120 - share) < 0.1


@pytest.mark.parametrize("size", [32, 64])
def test_the_judge_sees_outlines_and_what_they_are_of(size):
    for scene, picture, _ in world(60, 4, size):
        styled = judge_style(picture)
        assert styled.outlined
        found = styled.verdict
        assert (found.shape, found.colour, found.background) == scene.combination and found.size == "large"


def test_filled_shapes_and_what_is_no_picture_of_the_world_are_no_outlines():
    filled = [scene for scene in scenes(150, 9) if scene.shape != "ring"]  # which has a hole by itself
    for scene in filled:
        styled = judge_style(draw(scene))
        assert not styled.outlined and styled.verdict.shape == scene.shape
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (32, 32, 3), np.uint8)
    plain = np.full((32, 32, 3), (40, 80, 220), np.uint8)
    assert not judge_style(noise).outlined and not judge_style(plain).outlined


def test_an_outline_that_is_cut_open_is_none():
    whole = [(scene, picture.copy()) for scene, picture, _ in DRAWN[:20]]
    for scene, picture in whole:
        column = int(scene.x * 32)
        picture[int(scene.y * 32) :, column - 1 : column + 2] = picture[0, 0]
        assert not judge_style(picture).outlined
