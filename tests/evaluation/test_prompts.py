"""A CLIP's scores on samples: of right ones they beat those of wrong ones, on the shipped CLIP of the demo world."""

from importlib.resources import files

import pytest
from PIL import Image

from clipgen.clip.frozen import load_clip
from clipgen.evaluation.prompts import clip_figures
from clipgen.shapes.draw import draw, scenes

ASKED = [("circle", "red", "blue"), ("cross", "green", "white"), ("ring", "black", "orange")]


@pytest.fixture(scope="module")
def clip():
    return load_clip(f"local-dir:{files('clipgen.shapes') / 'clip'}", None)


def test_pictures_of_their_prompts_are_found_and_others_are_not(clip):
    prompts = [f"a {colour} {shape} on a {ground} background" for shape, colour, ground in ASKED]
    images = [Image.fromarray(draw(scene)) for each in ASKED for scene in scenes(4, 5, only=[each])]
    right = clip_figures(images, prompts, clip)
    assert right["clip.top_1"] == 1 and right["clip.top_1.chance"] == pytest.approx(1 / 3)
    assert right["clip.score"] > right["clip.score_of_others"] + 0.3
    wrong = clip_figures(images[4:] + images[:4], prompts, clip)
    assert wrong["clip.top_1"] == 0 and wrong["clip.score"] < right["clip.score"] - 0.3


def test_one_prompt_has_a_score_and_nothing_to_be_found_among(clip):
    images = [Image.fromarray(draw(scene)) for scene in scenes(2, 5, only=ASKED[:1])]
    assert set(clip_figures(images, ["a red circle on a blue background"], clip)) == {"clip.score"}
