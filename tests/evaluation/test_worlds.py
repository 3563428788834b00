"""What a comparison asks for, and how each prompt's pictures are marked."""

import numpy as np
import pytest
from PIL import Image

from clipgen.clip.frozen import load_clip
from clipgen.evaluation.world import scenes_of
from clipgen.evaluation.worlds import captioned_world, shapes_world, two_world
from clipgen.shapes.draw import draw
from clipgen.shapes.prompts import ablation_prompts


@pytest.fixture(scope="module")
def drawn() -> list[Image.Image]:
    """What every test prompt asks for, two pictures of each."""
    return [
        Image.fromarray(draw(scene))
        for i, asked in enumerate(ablation_prompts()[1])
        for scene in scenes_of(asked, 2, i)
    ]


def test_prompts_to_choose_by_are_no_test_prompts():
    world = shapes_world()
    assert not set(world.prompts["development"]) & set(world.prompts["test"])
    assert [prompt.text for prompt in ablation_prompts()[1]] == world.prompts["test"]


def test_each_prompt_of_the_demo_world_has_a_mark_of_its_own(drawn):
    world, asked = shapes_world(), ablation_prompts()[1]
    values = world.judge("test", drawn)
    assert world.aim in values and "never shown" in world.described("judge.held_out.all")["title"]
    assert np.nanmin(values["judge.all"]) == 1 and len(values["judge.all"]) == len(asked)
    swapped = [drawn[2], drawn[1], *drawn[2:]]  # the first prompt gets a picture of the second
    wrong = world.judge("test", swapped)["judge.all"]
    assert wrong[0] == 0.5 and (wrong[1:] == 1).all()
    unsized = [i for i, prompt in enumerate(asked) if prompt.size is None]
    assert np.isnan(values["judge.size"][unsized]).all() and np.isnan(values["judge.size"]).sum() == len(unsized)
    unseen = np.array([prompt.kind == "held_out" for prompt in asked])
    assert (np.isnan(values["judge.held_out.all"]) == ~unseen).all()


def test_own_captions_are_split_in_two_and_scored_by_a_clip(tiny_clip_folder):
    clip = load_clip(f"local-dir:{tiny_clip_folder}", None)
    captions = ["a red circle", "a blue ring", "a red circle", "two crosses", "a dot", "a line"]
    world = captioned_world(captions, clip, 2)
    assert world.prompts == {"development": ["a red circle", "two crosses"], "test": ["a blue ring", "a dot"]}
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)) for _ in range(4)]
    values = world.judge("test", images)
    assert values["clip.score"].shape == (2,) and world.aim in values


def test_the_world_of_two_objects_is_asked_in_the_same_way():
    world = two_world()
    assert not set(world.prompts["development"]) & set(world.prompts["test"])
    blank = [Image.new("RGB", (32, 32))] * len(world.prompts["test"])
    values = world.judge("test", blank)
    assert np.nanmax(values[world.aim]) == 0 and len(values[world.aim]) == len(blank)
    assert world.described("judge.binding")["title"] == "each colour on its shape"
    assert world.described("judge.count_of_2")["title"] == "number right, of two"
    lower = [name for name in values if world.described(name)["better"] == "lower"]
    assert {name.rpartition(".")[2] for name in lower} == {"none", "swapped"}
