"""The two-object world's figures, with stand-ins that know the answer, mix it up, or know words without their order."""

import re
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from clipgen.evaluation.two import judge_generator, yardsticks, zero_shot
from clipgen.shapes.draw import COLOURS, SHAPES
from clipgen.shapes.two import PLURALS, draw, scenes
from clipgen.shapes.two_judge import judge
from clipgen.shapes.two_prompts import test_prompts as fixed_prompts

PROMPTS = fixed_prompts()[::7]


class Draws:
    """A generator that draws what a prompt asks for; `mixed` puts each colour on the other shape."""

    def __init__(self, mixed: bool):
        self.asked, self.mixed = {prompt.text: prompt for prompt in PROMPTS}, mixed

    def generate(self, texts, n, seed, on_batch, **sampling):
        images = []
        for number, text in enumerate(texts):
            named = self.asked[text].named
            if self.mixed and len(set(named)) == 2:
                (one, its), (other, colour) = named
                named = tuple(sorted(((one, colour), (other, its))))
            drawn = scenes(n, seed + number, only=[(named, self.asked[text].background)])
            images += [Image.fromarray(draw(scene, 32)) for scene in drawn]
            on_batch(n)
        return images


@pytest.mark.parametrize("mixed", [False, True])
def test_a_generator_that_binds_is_told_from_one_that_swaps(mixed):
    judged = judge_generator(Draws(mixed), PROMPTS, 2, 0)
    assert len(judged.images) == 2 * len(PROMPTS)
    assert judged.metrics["judge.binding"] == (not mixed) and judged.metrics["judge.swapped"] == mixed
    for name in ("shape", "colour", "count", "background"):
        assert judged.metrics[f"judge.{name}"] == 1


class Perfect(torch.nn.Module):
    """A VQGAN that gives every image back."""

    image_size = 32
    last_layer = torch.zeros(1)

    def encode(self, image_BCHW):
        self.image_BCHW = image_BCHW
        return torch.zeros(len(image_BCHW), 1, 1, dtype=torch.long)

    def decode(self, tokens_Bhw):
        return self.image_BCHW


def test_the_ceiling_is_that_of_the_reconstructions():
    found = yardsticks(SimpleNamespace(vqgan=Perfect()), n=4, count=60)
    assert found["judge.ceiling.binding"] == found["judge.ceiling.count"] == found["judge.ceiling.all"] == 1
    assert found["judge.chance.count"] == pytest.approx(1 / 3)
    broken = Perfect()
    broken.decode = lambda tokens: torch.zeros_like(broken.image_BCHW)
    assert yardsticks(SimpleNamespace(vqgan=broken), n=4, count=60)["judge.ceiling.all"] == 0


NOUNS = {plural: shape for shape, plural in PLURALS.items()} | {shape: shape for shape in SHAPES}
NUMBERS = {"one": 1, "two": 2, "three": 3}


class Reads:
    """A CLIP that reads pictures with the judge; what it keeps of them and of texts is `told` by their objects."""

    mean_C11 = torch.zeros(1)

    def __init__(self, bag_of_words: bool):
        self.bag_of_words, self.features = bag_of_words, {}

    def embed(self, named) -> torch.Tensor:
        keys = [word for each in named for word in each] if self.bag_of_words else list(named)
        hot = torch.zeros(400)
        for key, times in Counter(keys).items():
            hot[self.features.setdefault((key, times), len(self.features))] = 1
        return hot

    def encode_text(self, texts):
        return torch.stack([self.embed(self.read(text)) for text in texts])

    @staticmethod
    def read(text):
        words = re.findall(r"\w+", text.partition(" on a ")[0])
        named = list(zip((w for w in words if w in COLOURS), (w for w in words if w in NOUNS), strict=True))
        number = next((NUMBERS[word] for word in words if word in NUMBERS), 1)
        return tuple(sorted((NOUNS[noun], colour) for colour, noun in named)) * number

    def encode_image(self, image_BCHW):
        pixels = ((image_BCHW.permute(0, 2, 3, 1) + 1) * 127.5).round().byte().numpy()
        return torch.stack([self.embed(judge(each).named) for each in pixels])


def test_a_clip_that_binds_is_told_from_one_that_knows_words_alone():
    binding, words = zero_shot(Reads(False), 32, count=120), zero_shot(Reads(True), 32, count=120)
    assert binding == {"clip.zero_shot.binding": 1, "clip.zero_shot.count": 1}
    assert 0.3 < words["clip.zero_shot.binding"] < 0.7 and words["clip.zero_shot.count"] == 1
