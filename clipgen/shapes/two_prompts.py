"""The fixed prompts of the two-object world, and the score of the pictures made from them.

Test prompts: 120 pairs and 60 groups of alike objects, of each half worded as the captions, a quarter in sentences that
no caption has, a quarter of objects that no picture shows together. Settings are chosen on the development prompts.
P prompts
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

from clipgen.shapes.draw import COLOURS, SHAPES
from clipgen.shapes.two import COUNTS, GROUPS, JOINS, THINGS, Named, groups, held_out, one_of, pairs, sentence, words
from clipgen.shapes.two_judge import Seen, shares

REWORDED = (
    "on {background} there are to be seen {things}",
    "{things}, and everything else is {background}",
    "all over {background}: {things}",
    "{background} is behind {things}",
)
DEVELOPMENT_REWORDED = (
    "with {background} all around: {things}",
    "what is here is {things}, before {background}",
    "{background}, and in it {things}",
)
PLAIN_THINGS, PLAIN_JOINS = ("a {colour} {shape}",), ("{first} and {second}", "{first} beside {second}")
PLAIN_GROUPS = {n: (f"{number} {{colour}} {{{noun}}}",) for n, number, noun in
                ((1, "one", "shape"), (2, "two", "shapes"), (3, "three", "shapes"))}  # fmt: skip


@dataclass(frozen=True)
class Prompt:
    """A sentence and what it asks for: (shape, colour) of each object, sorted, and the background."""

    text: str
    named: tuple[Named, ...]
    background: str
    kind: str


def test_prompts() -> list[Prompt]:
    """The 180 of the report."""
    rng = np.random.default_rng(20_220_300_386)
    return [
        prompt
        for kind, n in (("plain", 30), ("reworded", 15), ("held_out", 15))
        for every, times in ((pairs(), 2), (groups(), 1))
        for prompt in _write(kind, n * times, every, REWORDED, rng, set())
    ]


test_prompts.__test__ = False  # pytest would take the name for a test


def development_prompts() -> list[Prompt]:
    """Another 90, none of them a test prompt and none held out."""
    rng = np.random.default_rng(32_002_203)
    taken = {prompt.text for prompt in test_prompts()}
    return [
        prompt
        for kind, n in (("plain", 20), ("reworded", 10))
        for every, times in ((pairs(), 2), (groups(), 1))
        for prompt in _write(kind, n * times, every, DEVELOPMENT_REWORDED, rng, taken)
    ]


def _write(
    kind: str,
    n: int,
    every: list[tuple[Named, ...]],
    reworded: Sequence[str],
    rng: np.random.Generator,
    taken: set[str],
) -> list[Prompt]:
    """`n` prompts of different texts; of groups as many for each number."""
    unseen = held_out()
    choices = [each for each in every if (each in unseen) == (kind == "held_out")]
    made: list[Prompt] = []
    while len(made) < n:
        fitting = choices
        if len(set(every[0])) == 1:  # groups: their numbers in turn
            fitting = [each for each in choices if len(each) == COUNTS[len(made) % len(COUNTS)]]
        named = fitting[rng.integers(len(fitting))]
        free = [colour for colour in COLOURS if colour not in dict(named).values()]
        background = one_of(free, rng)
        if kind == "reworded":
            things = words(list(named), rng, PLAIN_THINGS, PLAIN_JOINS, PLAIN_GROUPS)
            text = one_of(reworded, rng).format(things=things, background=background)
        else:
            text = sentence(words(list(named), rng, THINGS, JOINS, GROUPS), background, rng)
        if text not in taken:
            taken.add(text)
            made.append(Prompt(text, named, background, kind))
    return made


def chance() -> dict[str, float]:
    """How often a guess that knows what kind of picture is asked for, and nothing else of the prompt, is right."""
    return {
        "background": 1 / len(COLOURS),
        "count": 1 / len(COUNTS),
        "shape": 1 / comb(len(SHAPES), 2),
        "colour": 1 / comb(len(COLOURS), 2),
        "binding": 1 / len(pairs()),
    }


def values(prompts: Sequence[Prompt], verdicts: Sequence[Sequence[Seen]]) -> dict[str, np.ndarray]:
    """Each prompt's share of pictures that are right, (P,) under the names of `shares`; NaN where it does not ask.

    `count_of_1` to `count_of_3` are of prompts with that number, `held_out.…` of those that no picture shows.
    """
    assert len(prompts) == len(verdicts), (len(prompts), len(verdicts))
    found: dict[str, np.ndarray] = {}
    for i, (asked, seen) in enumerate(zip(prompts, verdicts, strict=True)):
        right = shares(asked.named, asked.background, seen)
        unseen = {f"held_out.{name}": value for name, value in right.items() if asked.kind == "held_out"}
        if "count" in right:
            right[f"count_of_{len(asked.named)}"] = right["count"]
        right |= unseen
        for name, value in right.items():
            found.setdefault(name, np.full(len(prompts), np.nan))[i] = value
    return {f"judge.{name}": each for name, each in sorted(found.items())}


def score(prompts: Sequence[Prompt], verdicts: Sequence[Sequence[Seen]]) -> dict[str, float]:
    """Means of `values` over the prompts that ask for them; verdicts[i] judge the pictures of prompts[i]."""
    return {name: float(np.nanmean(each)) for name, each in values(prompts, verdicts).items()}
