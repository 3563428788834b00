"""Reading a caption back: every sentence says what its scene shows, and what is no sentence says nothing."""

from dataclasses import asdict, replace

import pytest

from clipgen.shapes.captions import Told, read_caption
from clipgen.shapes.draw import CAPTIONS, SIZE_WORDS, UNSIZED_CAPTIONS, scenes, world

SCENE = replace(scenes(1, 0)[0], shape="ring", colour="red", background="blue", size="small")


def test_every_sentence_is_read_as_it_was_meant():
    for template in (*CAPTIONS, *UNSIZED_CAPTIONS):
        for size, words in SIZE_WORDS.items():
            for word in words:
                sized = template in CAPTIONS
                told = read_caption(template.format(**asdict(SCENE) | {"size": word}))
                assert told == Told("ring", "red", "blue", size if sized else None), template


def test_a_drawn_world_s_captions_are_all_right():
    for scene, _, text in world(300, 5):
        told = read_caption(text)
        assert told.right(scene)["all"] and ("size" in told.right(scene)) is (told.size is not None), text


def test_what_is_wrong_is_told_by_attribute():
    right = read_caption("a large red ring on blue").right(SCENE)
    assert right == {"shape": True, "colour": True, "background": True, "size": False, "all": False}
    assert not read_caption("a blue ring on red").right(SCENE)["all"]
    assert read_caption("a red ring on blue").right(SCENE)["all"]


@pytest.mark.parametrize("text", ["", "a red ring", "a ring on blue", "a red red ring on blue", "red ring on blue"])
def test_what_is_no_sentence_says_nothing(text):
    assert read_caption(text) is None
