"""The demo world's figures, with stand-ins that know the right answer or know nothing."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from clipgen.evaluation.world import judge_generator, yardsticks, zero_shot
from clipgen.shapes.draw import COLOURS, SHAPES, SIZES, draw, scenes
from clipgen.shapes.judge import judge
from clipgen.shapes.prompts import test_prompts as fixed_prompts
from clipgen.tokenizer.vqgan import VQGAN

PROMPTS = fixed_prompts()[::20]
ASKED = {prompt.text: prompt for prompt in PROMPTS}


def right(text: str, n: int, seed: int):
    asked = ASKED[text]
    found = scenes(40, seed, only=[(asked.shape, asked.colour, asked.background)])
    return [draw(scene) for scene in found if asked.size in (None, scene.size)][:n]


def always_the_first(text: str, n: int, seed: int):
    return right(PROMPTS[0].text, n, seed)


def test_a_generator_that_obeys_scores_everything(known):
    pipeline = known.Draws(right)
    judged = judge_generator(pipeline, PROMPTS, n=4, seed=7, guidance_scale=2.0)
    assert pipeline.calls == [(4, 7, {"guidance_scale": 2.0})]
    assert len(judged.images) == 4 * len(PROMPTS)
    for name in ("foreground", "background", "shape", "size"):
        assert judged.metrics[f"judge.{name}"] > 0.94
    assert {"judge.held_out.shape", "judge.reworded.shape", "judge.plain.shape"} < set(judged.metrics)
    assert judged.metrics["judge.none"] < 0.06
    assert judged.metrics["spread.x"] > 0.03


def test_a_generator_that_does_not_listen_scores_about_nothing(known):
    judged = judge_generator(known.Draws(always_the_first), PROMPTS, n=4, seed=7)
    assert judged.metrics["judge.all"] < 0.25
    assert judged.metrics["judge.foreground"] < 0.5


def test_yardsticks(known):
    found = yardsticks(SimpleNamespace(vqgan=known.Perfect()), n=4, count=41)
    for name in ("foreground", "background", "shape", "size"):
        assert found[f"judge.ceiling.{name}"] > 0.95
    assert found["judge.chance.shape"] == pytest.approx(1 / len(SHAPES))
    assert found["judge.chance.foreground"] == pytest.approx(1 / len(COLOURS))
    assert 0.08 < found["spread.training.x"] < 0.3
    assert 0.01 < found["spread.training.radius"] < 0.1


def test_the_ceiling_is_that_of_the_tokenizer_in_use():
    torch.manual_seed(0)
    shape = dict(codebook_size=8, code_dim=4, channels=32, channel_multipliers=[1, 1], res_blocks=1, z_channels=8)
    found = yardsticks(SimpleNamespace(vqgan=VQGAN(32, **shape, norm_groups=8).eval()), n=4, count=12)
    assert found["judge.ceiling.all"] < 0.2  # untrained


def named(text: str):
    """What a caption names, word by word: the first colour is the object's."""
    words = re.findall(r"\w+", text)
    colours = [word for word in words if word in COLOURS]
    shape = next(word for word in words if word in SHAPES)
    return told(shape, *colours, next((word for word in words if word in SIZES), None))


def seen(picture: np.ndarray):
    verdict = judge(picture)
    return told(verdict.shape, verdict.colour, verdict.background, verdict.size)


def told(*words: str | None):
    return [each for each in enumerate(words) if each[1]]


def test_a_clip_that_sees_is_told_from_one_that_does_not(known):
    names = ("shape", "foreground", "background", "size")
    seeing = zero_shot(known.Reads(named, seen), 32, count=60)
    assert all(seeing[f"clip.zero_shot.{name}"] > 0.95 for name in names)
    assert seeing["clip.gap"] < 0.1

    blind = known.Reads(named, seen)
    blind.encode_image = lambda image_BCHW: torch.ones(len(image_BCHW), 400)
    unseeing = zero_shot(blind, 32, count=60)
    assert all(unseeing[f"clip.zero_shot.{name}"] < 0.7 for name in names)
    assert unseeing["clip.gap"] > 1


def test_fresh_pictures_are_the_same_each_time(known):
    first, second = (zero_shot(known.Reads(named, seen), 32, count=10) for _ in range(2))
    assert first == second
    assert np.isfinite(list(first.values())).all()
