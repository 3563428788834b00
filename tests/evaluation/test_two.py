"""The two-object world's figures, with stand-ins that know the answer, mix it up, or know words without their order."""

import re
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from clipgen.evaluation.two import judge_generator, yardsticks, zero_shot
from clipgen.shapes.draw import COLOURS, SHAPES
from clipgen.shapes.two import PLURALS, draw, scenes
from clipgen.shapes.two_judge import judge
from clipgen.shapes.two_prompts import test_prompts as fixed_prompts

PROMPTS = fixed_prompts()[::7]
ASKED = {prompt.text: prompt for prompt in PROMPTS}


def right(text: str, n: int, seed: int):
    return drawn(ASKED[text].named, text, n, seed)


def mixed_up(text: str, n: int, seed: int):
    """Each colour on the other shape."""
    named = ASKED[text].named
    if len(set(named)) == 2:
        (one, its), (other, colour) = named
        named = tuple(sorted(((one, colour), (other, its))))
    return drawn(named, text, n, seed)


def drawn(named, text: str, n: int, seed: int):
    return [draw(scene, 32) for scene in scenes(n, seed, only=[(named, ASKED[text].background)])]


@pytest.mark.parametrize("drawing", [right, mixed_up])
def test_a_generator_that_binds_is_told_from_one_that_swaps(known, drawing):
    judged = judge_generator(known.Draws(drawing), PROMPTS, 2, 0)
    assert len(judged.images) == 2 * len(PROMPTS)
    assert judged.metrics["judge.binding"] == (drawing is right)
    assert judged.metrics["judge.swapped"] == (drawing is mixed_up)
    for name in ("shape", "colour", "count", "background"):
        assert judged.metrics[f"judge.{name}"] == 1


def test_the_ceiling_is_that_of_the_reconstructions(known):
    found = yardsticks(SimpleNamespace(vqgan=known.Perfect()), n=4, count=60)
    assert found["judge.ceiling.binding"] == found["judge.ceiling.count"] == found["judge.ceiling.all"] == 1
    assert found["judge.chance.count"] == pytest.approx(1 / 3)
    broken = known.Perfect()
    broken.decode = lambda tokens: torch.zeros_like(broken.image_BCHW)
    assert yardsticks(SimpleNamespace(vqgan=broken), n=4, count=60)["judge.ceiling.all"] == 0


NOUNS = {plural: shape for shape, plural in PLURALS.items()} | {shape: shape for shape in SHAPES}
NUMBERS = {"one": 1, "two": 2, "three": 3}


def objects(text: str):
    """(shape, colour) of each object in a text."""
    words = re.findall(r"\w+", text.partition(" on a ")[0])
    named = list(zip((w for w in words if w in COLOURS), (w for w in words if w in NOUNS), strict=True))
    number = next((NUMBERS[word] for word in words if word in NUMBERS), 1)
    return counted([(NOUNS[noun], colour) for colour, noun in named] * number)


def counted(things):
    """Each thing with how often it is there."""
    return Counter(things).items()


def words_of(told):
    """The same without which colour is on which shape."""
    return counted([word for each, times in told for word in each * times])


def test_a_clip_that_binds_is_told_from_one_that_knows_words_alone(known):
    seen = lambda picture: counted(judge(picture).named)  # noqa: E731
    binding = zero_shot(known.Reads(objects, seen), 32, count=120)
    bag = known.Reads(lambda text: words_of(objects(text)), lambda picture: words_of(seen(picture)))
    words = zero_shot(bag, 32, count=120)
    assert binding == {"clip.zero_shot.binding": 1, "clip.zero_shot.count": 1}
    assert 0.3 < words["clip.zero_shot.binding"] < 0.7 and words["clip.zero_shot.count"] == 1
