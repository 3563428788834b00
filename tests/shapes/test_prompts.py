import re
from collections import Counter

import numpy as np
import pytest

from clipgen.shapes.draw import (
    CAPTIONS,
    COLOURS,
    SHAPES,
    SIZE_WORDS,
    UNSIZED_CAPTIONS,
    combinations,
    draw,
    held_out,
    scenes,
)
from clipgen.shapes.judge import Verdict, judge_many
from clipgen.shapes.prompts import (
    DEVELOPMENT_REWORDED,
    REWORDED,
    UNSIZED_DEVELOPMENT_REWORDED,
    UNSIZED_REWORDED,
    Prompt,
    ablation_prompts,
    ceiling,
    chance,
    development_prompts,
    score,
)
from clipgen.shapes.prompts import test_prompts as fixed_prompts

ASKED = Prompt("a small red ring on blue", "ring", "red", "blue", "small", "plain")
RIGHT = Verdict("ring", "red", "blue", "small", 0.5, 0.5, 0.18)


def is_caption(text: str) -> bool:
    return any(re.fullmatch(re.sub(r"{\w+}", r"\\w+", form), text) for form in (*CAPTIONS, *UNSIZED_CAPTIONS))


def test_two_hundred_prompts_of_three_kinds():
    prompts = fixed_prompts()
    assert Counter(prompt.kind for prompt in prompts) == {"plain": 100, "reworded": 50, "held_out": 50}
    assert len({prompt.text for prompt in prompts}) == 200
    assert prompts == fixed_prompts()


def test_the_prompts_stay_what_they_are():
    """Figures of different runs compare only while this holds; whoever changes the prompts says so in CHANGELOG."""
    assert [fixed_prompts()[i].text for i in (0, 100, 150)] == [
        "there is a cross that is yellow and small over a background of black colour",
        "a ring, small and purple, on blue",
        "the background is blue and on it is one tiny orange triangle",
    ]


def test_a_hundred_other_prompts_for_development():
    prompts = development_prompts()
    assert Counter(prompt.kind for prompt in prompts) == {"plain": 70, "reworded": 30}
    assert len({prompt.text for prompt in prompts}) == 100
    assert not {prompt.text for prompt in prompts} & {prompt.text for prompt in fixed_prompts()}


@pytest.mark.parametrize("prompts", [fixed_prompts(), development_prompts()], ids=["test", "development"])
def test_every_text_names_what_its_prompt_asks_for(prompts):
    for prompt in prompts:
        words = prompt.text.replace(",", "").split()
        assert [word for word in words if word in SHAPES] == [prompt.shape]
        assert Counter(word for word in words if word in COLOURS) == Counter([prompt.colour, prompt.background])
        assert [size for size, names in SIZE_WORDS.items() for word in words if word in names] == [
            *filter(None, [prompt.size])
        ]


@pytest.mark.parametrize("prompts", [fixed_prompts(), development_prompts()], ids=["test", "development"])
def test_only_held_out_prompts_ask_for_held_out_combinations(prompts):
    for prompt in prompts:
        combination = prompt.shape, prompt.colour, prompt.background
        assert combination in combinations()
        assert (combination in held_out()) == (prompt.kind == "held_out")


def test_all_held_out_combinations_are_asked_for():
    asked = {(p.shape, p.colour, p.background) for p in fixed_prompts() if p.kind == "held_out"}
    assert asked == held_out()


@pytest.mark.parametrize("prompts", [fixed_prompts(), development_prompts()], ids=["test", "development"])
def test_reworded_prompts_are_no_captions_and_the_others_are(prompts):
    for prompt in prompts:
        assert is_caption(prompt.text) == (prompt.kind != "reworded"), prompt.text


def test_reworded_prompts_use_the_words_of_captions():
    def words_of(forms):
        return set(" ".join(forms).replace(",", "").split())

    new = words_of((*REWORDED, *UNSIZED_REWORDED)) - words_of((*CAPTIONS, *UNSIZED_CAPTIONS))
    assert new <= {"all", "around"}
    assert not {*REWORDED, *UNSIZED_REWORDED} & {*DEVELOPMENT_REWORDED, *UNSIZED_DEVELOPMENT_REWORDED}


@pytest.mark.parametrize("kind", ["plain", "reworded"])
def test_prompts_are_balanced(kind):
    prompts = [prompt for prompt in fixed_prompts() if prompt.kind == kind]
    for attribute, values in (("shape", SHAPES), ("colour", COLOURS), ("background", COLOURS)):
        counts = Counter(getattr(prompt, attribute) for prompt in prompts)
        assert set(counts) == set(values) and max(counts.values()) - min(counts.values()) <= 1
    sizes = Counter(prompt.size for prompt in prompts)
    assert abs(sizes["small"] - sizes["large"]) <= 1 and abs(sizes[None] - len(prompts) / 2) <= 1


def test_score_of_right_and_wrong_answers():
    unsized = Prompt("diamond", "diamond", "white", "black", None, "held_out")
    wrong_shape = Verdict("cross", "white", "black", "large", 0.3, 0.5, 0.3)
    metrics = score([ASKED, unsized], [[RIGHT, Verdict.NONE], [wrong_shape, wrong_shape]])
    expected = {
        "judge.foreground": 0.75,
        "judge.background": 0.75,
        "judge.shape": 0.25,
        "judge.size": 0.5,
        "judge.all": 0.25,
        "judge.none": 0.25,
        "judge.plain.shape": 0.5,
        "judge.plain.size": 0.5,
        "judge.held_out.foreground": 1.0,
        "judge.held_out.shape": 0.0,
    }
    assert {key: metrics[key] for key in expected} == expected
    assert "judge.held_out.size" not in metrics and "judge.reworded.shape" not in metrics


def test_spread_is_taken_within_a_prompt_and_leaves_none_out():
    moved = Verdict("ring", "red", "blue", "small", 0.7, 0.5, 0.18)
    metrics = score([ASKED, ASKED], [[RIGHT, moved, Verdict.NONE], [moved, moved]])
    assert metrics["spread.x"] == pytest.approx((0.1 + 0.0) / 2)
    assert metrics["spread.y"] == metrics["spread.radius"] == 0.0
    assert score([ASKED], [[Verdict.NONE]])["spread.x"] == 0.0


def test_a_painter_who_draws_what_is_asked_scores_one_and_a_guesser_chance():
    prompts = fixed_prompts()
    obedient = [
        judge_many(map(draw, scenes(1, seed=i, only=[(p.shape, p.colour, p.background)])))
        for i, p in enumerate(prompts)
    ]
    metrics = score(prompts, obedient)
    assert min(metrics[f"judge.{key}"] for key in ("foreground", "background", "shape", "held_out.shape")) >= 0.99
    guesses = scenes(len(prompts) * 40, seed=1)
    guessed = [
        [Verdict(s.shape, s.colour, s.background, s.size, s.x, s.y, s.radius) for s in guesses[i::200]]
        for i in range(200)
    ]
    metrics = score(prompts, guessed)
    for name, level in chance().items():
        assert metrics[f"judge.{name}"] == pytest.approx(level, abs=0.03)


def test_the_ceiling_counts_over_scenes():
    made = scenes(50, seed=4)
    metrics = ceiling(made, judge_many(map(draw, made)))
    assert metrics["judge.ceiling.foreground"] == metrics["judge.ceiling.shape"] == 1.0
    assert ceiling(made[:2], [Verdict.NONE] * 2)["judge.ceiling.size"] == 0.0
    assert all(isinstance(value, float) for value in metrics.values())
    assert np.isfinite(list(metrics.values())).all()


def test_what_an_ablation_chooses_by_is_never_what_it_reports():
    development, test = ablation_prompts()
    unseen = [{(p.shape, p.colour, p.background) for p in part if p.kind == "held_out"} for part in (development, test)]
    assert all(unseen) and not unseen[0] & unseen[1] and unseen[0] | unseen[1] <= held_out()
    assert not {p.text for p in development} & {p.text for p in test}
    assert len(development) == 140 and {p.text for p in test} < {p.text for p in fixed_prompts()}
