"""The demo world's figures, with stand-ins that know the right answer or know nothing."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from clipgen.evaluation.world import judge_generator, yardsticks, zero_shot
from clipgen.shapes.draw import COLOURS, SHAPES, SIZES, draw, scenes
from clipgen.shapes.judge import judge
from clipgen.shapes.prompts import test_prompts as fixed_prompts
from clipgen.tokenizer.vqgan import VQGAN


class Draws:
    """A generator that draws what a prompt asks for, or always the same."""

    def __init__(self, prompts, obeys=True):
        self.asked = {prompt.text: prompt for prompt in prompts}
        self.obeys, self.calls = obeys, []

    def generate(self, texts, n, seed, on_batch, **sampling):
        self.calls.append((n, seed, sampling))
        images = []
        for number, text in enumerate(texts):
            asked = self.asked[text if self.obeys else texts[0]]
            found = scenes(40, seed + number, only=[(asked.shape, asked.colour, asked.background)])
            fitting = [scene for scene in found if asked.size in (None, scene.size)]
            images += [Image.fromarray(draw(scene)) for scene in fitting[:n]]
            on_batch(n)
        return images


PROMPTS = fixed_prompts()[::20]


def test_a_generator_that_obeys_scores_everything():
    pipeline = Draws(PROMPTS)
    judged = judge_generator(pipeline, PROMPTS, n=4, seed=7, guidance_scale=2.0)
    assert pipeline.calls == [(4, 7, {"guidance_scale": 2.0})]
    assert len(judged.images) == 4 * len(PROMPTS)
    for name in ("foreground", "background", "shape", "size"):
        assert judged.metrics[f"judge.{name}"] > 0.94
    assert {"judge.held_out.shape", "judge.reworded.shape", "judge.plain.shape"} < set(judged.metrics)
    assert judged.metrics["judge.none"] < 0.06
    assert judged.metrics["spread.x"] > 0.03


def test_a_generator_that_does_not_listen_scores_about_nothing():
    judged = judge_generator(Draws(PROMPTS, obeys=False), PROMPTS, n=4, seed=7)
    assert judged.metrics["judge.all"] < 0.25
    assert judged.metrics["judge.foreground"] < 0.5


class Perfect(torch.nn.Module):
    """A VQGAN that gives every image back."""

    image_size = 32
    last_layer = torch.zeros(1)

    def encode(self, image_BCHW):
        self.image_BCHW = image_BCHW
        return torch.zeros(len(image_BCHW), 1, 1, dtype=torch.long)

    def decode(self, tokens_Bhw):
        return self.image_BCHW


def test_yardsticks():
    found = yardsticks(SimpleNamespace(vqgan=Perfect()), n=4, count=41)
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


WORDS = [*SHAPES, *COLOURS, *COLOURS, *SIZES]


class Reads:
    """A CLIP that reads a picture with the judge and a caption word by word."""

    mean_C11 = torch.zeros(1)

    def encode_text(self, texts):
        return torch.stack([self.embed(*self.read(text)) for text in texts])

    @staticmethod
    def read(text):
        words = re.findall(r"\w+", text)
        colours = [word for word in words if word in COLOURS]
        shape = next(word for word in words if word in SHAPES)
        return shape, *colours, next((word for word in words if word in SIZES), None)

    def encode_image(self, image_BCHW):
        pixels = ((image_BCHW.permute(0, 2, 3, 1) + 1) * 127.5).round().byte().numpy()
        seen = [judge(each) for each in pixels]
        return torch.stack([self.embed(each.shape, each.colour, each.background, each.size) for each in seen])

    @staticmethod
    def embed(shape, colour, background, size):
        hot = torch.zeros(len(WORDS))
        if shape:
            hot[WORDS.index(shape)] = 1
        if colour:
            hot[len(SHAPES) + list(COLOURS).index(colour)] = 1
        if background:
            hot[len(SHAPES) + len(COLOURS) + list(COLOURS).index(background)] = 1
        if size:
            hot[WORDS.index(size)] = 1
        return hot


def test_a_clip_that_sees_is_told_from_one_that_does_not():
    names = ("shape", "foreground", "background", "size")
    seeing = zero_shot(Reads(), 32, count=60)
    assert all(seeing[f"clip.zero_shot.{name}"] > 0.95 for name in names)
    assert seeing["clip.gap"] < 0.1

    blind = Reads()
    blind.encode_image = lambda image_BCHW: torch.ones(len(image_BCHW), len(WORDS))
    unseeing = zero_shot(blind, 32, count=60)
    assert all(unseeing[f"clip.zero_shot.{name}"] < 0.7 for name in names)
    assert unseeing["clip.gap"] > 1


def test_fresh_pictures_are_the_same_each_time():
    first, second = (zero_shot(Reads(), 32, count=10) for _ in range(2))
    assert first == second
    assert np.isfinite(list(first.values())).all()
