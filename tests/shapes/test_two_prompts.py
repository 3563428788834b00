"""The fixed prompts of the two-object world, and how their pictures are scored."""

from collections import Counter

import numpy as np
import pytest

from clipgen.shapes.draw import COLOURS
from clipgen.shapes.two import PLURALS, draw, held_out, scenes
from clipgen.shapes.two_judge import Seen, judge_many
from clipgen.shapes.two_prompts import Prompt, chance, development_prompts, score, values
from clipgen.shapes.two_prompts import test_prompts as fixed_prompts

SETS = pytest.mark.parametrize("prompts", [fixed_prompts(), development_prompts()], ids=["test", "development"])
PAIR = ("circle", "red"), ("ring", "white")


def test_how_many_prompts_of_which_kind():
    test, development = fixed_prompts(), development_prompts()
    assert Counter(prompt.kind for prompt in test) == {"plain": 90, "reworded": 45, "held_out": 45}
    assert Counter(prompt.kind for prompt in development) == {"plain": 60, "reworded": 30}
    groups = Counter(len(prompt.named) for prompt in test if len(set(prompt.named)) == 1)
    assert groups == {1: 20, 2: 20, 3: 20}
    assert len({prompt.text for prompt in test + development}) == 270
    assert test == fixed_prompts()


def test_the_prompts_stay_what_they_are():
    """Figures of different runs compare only while this holds; whoever changes the prompts says so in CHANGELOG."""
    assert [fixed_prompts()[i].text for i in (0, 100, 179)] == [
        "behind it all is green, in front some triangle, it is blue, and a square of orange",
        "white is behind a yellow circle beside a orange diamond",
        "there is three yellow crosses on a purple background",
    ]


@SETS
def test_only_held_out_prompts_ask_for_what_no_picture_shows(prompts):
    unseen = held_out()
    for prompt in prompts:
        assert (prompt.named in unseen) == (prompt.kind == "held_out")
        assert prompt.background in COLOURS and prompt.background not in dict(prompt.named).values()


@SETS
def test_a_text_names_what_its_prompt_asks_for(prompts):
    for prompt in prompts:
        text = prompt.text
        colours = Counter(word for word in text.replace(",", " ").replace(":", " ").split() if word in COLOURS)
        assert colours == Counter([prompt.background, *dict(prompt.named).values()]), text
        if len(set(prompt.named)) == 2:
            assert all(shape in text for shape, _ in prompt.named), text
        else:
            noun = prompt.named[0][0] if len(prompt.named) == 1 else PLURALS[prompt.named[0][0]]
            assert noun in text and ("two" in text or "pair" in text) == (len(prompt.named) == 2), text
            assert ("three" in text) == (len(prompt.named) == 3), text


def test_pictures_of_what_was_asked_for_score_everything():
    prompts = fixed_prompts()[::7]
    drawn = [scenes(2, i, only=[(each.named, each.background)]) for i, each in enumerate(prompts)]
    found = score(prompts, [judge_many(draw(scene, 32) for scene in each) for each in drawn])
    ones = {name: value for name, value in found.items() if not name.endswith(("none", "swapped"))}
    assert set(ones.values()) == {1.0} and found["judge.swapped"] == found["judge.none"] == 0
    assert {"judge.binding", "judge.count", "judge.count_of_2", "judge.held_out.binding", "judge.all"} <= set(ones)


def test_a_figure_is_of_the_prompts_that_ask_for_it():
    prompts = [Prompt("", PAIR, "blue", "plain"), Prompt("", PAIR[:1] * 3, "blue", "held_out")]
    seen = [[Seen("blue", PAIR), Seen("blue", PAIR[:1])], [Seen("blue", PAIR[:1] * 2), Seen("blue", PAIR[1:] * 3)]]
    found = values(prompts, seen)
    np.testing.assert_equal(found["judge.binding"], [0.5, np.nan])
    np.testing.assert_equal(found["judge.count"], [np.nan, 0.5])
    np.testing.assert_equal(found["judge.all"], [0.5, 0])
    np.testing.assert_equal(found["judge.held_out.count"], [np.nan, 0.5])
    assert score(prompts, seen)["judge.all"] == 0.25 and score(prompts, seen)["judge.count_of_3"] == 0.5
    assert "judge.count_of_1" not in found


def test_chance_is_what_random_scenes_reach():
    rng, made = np.random.default_rng(0), scenes(3000, seed=5)
    pairs = [scene.named for scene in made if len(set(scene.named)) == 2]
    other = [pairs[i] for i in rng.permutation(len(pairs))]
    same = np.mean([{s for s, _ in a} == {s for s, _ in b} for a, b in zip(pairs, other, strict=True)])
    assert chance()["shape"] == pytest.approx(same, abs=0.02)
