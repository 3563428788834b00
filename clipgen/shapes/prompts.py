"""The fixed prompts of the demo world, and the score of the pictures made from them.

Half of the test prompts are worded as the captions, a quarter in sentences that no caption has, a quarter name a
combination of shape and colours that no picture ever showed. Settings are chosen on the development prompts only.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from clipgen.shapes.draw import (
    CAPTIONS,
    COLOURS,
    SHAPES,
    SIZE_WORDS,
    SIZES,
    UNSIZED_CAPTIONS,
    Scene,
    combinations,
    held_out,
)
from clipgen.shapes.judge import Verdict

KINDS = ("plain", "reworded", "held_out")
REWORDED = (
    "there is a {colour} {shape}, {size}, over {background}",
    "{background} all around one {size} {colour} {shape}",
    "a {shape}, {size} and {colour}, on {background}",
    "on {background} there is one {size} {shape}, it is {colour}",
    "the background of the picture is {background}, the {shape} on it is {size} and {colour}",
    "{colour} and {size}, a {shape} over {background}",
)
UNSIZED_REWORDED = (
    "there is a {colour} {shape} over {background}",
    "{background} all around one {colour} {shape}",
    "a {shape}, {colour}, on {background}",
    "on {background} there is one {shape}, it is {colour}",
    "the background of the picture is {background}, the {shape} on it is {colour}",
    "{shape} of {colour} over a background of {background}",
)
DEVELOPMENT_REWORDED = (
    "over {background} there is a {shape}, {colour} and {size}",
    "{background} picture with one {size} {shape}, it is {colour}",
    "a {size} {shape} of {colour} on a background of {background}",
    "it is a {colour} {shape}, {size}, and all around is {background}",
)
UNSIZED_DEVELOPMENT_REWORDED = (
    "over {background} there is a {shape} in {colour}",
    "{background} picture with one {shape}, it is {colour}",
    "a {shape} of {colour} on a background of {background}",
    "it is a {colour} {shape} and all around is {background}",
)


@dataclass(frozen=True)
class Prompt:
    """A sentence and what it asks for; `size` is None where it names none."""

    text: str
    shape: str
    colour: str
    background: str
    size: str | None
    kind: str


def test_prompts() -> list[Prompt]:
    """The 200 of the report: 100 plain, 50 reworded, 50 held out."""
    shown, unseen = _shown(), sorted(held_out())
    rng = np.random.default_rng(20220300386)
    return [
        *_write("plain", 100, shown, CAPTIONS, UNSIZED_CAPTIONS, rng),
        *_write("reworded", 50, shown, REWORDED, UNSIZED_REWORDED, rng),
        *_write("held_out", 50, unseen, CAPTIONS, UNSIZED_CAPTIONS, rng),
    ]


test_prompts.__test__ = False  # pytest would take the name for a test


def development_prompts() -> list[Prompt]:
    """Another 100, none of them a test prompt and none held out: 70 plain, 30 reworded in other sentences."""
    rng = np.random.default_rng(32002203)
    taken = frozenset(prompt.text for prompt in test_prompts())
    return [
        *_write("plain", 70, _shown(), CAPTIONS, UNSIZED_CAPTIONS, rng, taken),
        *_write("reworded", 30, _shown(), DEVELOPMENT_REWORDED, UNSIZED_DEVELOPMENT_REWORDED, rng),
    ]


def ablation_prompts() -> tuple[list[Prompt], list[Prompt]]:
    """(development, test): a third of the held-out combinations is for choosing, and left out of the test prompts.

    What only works for pictures like those it was shown must not win by never being asked for others.
    """
    for_choosing = sorted(held_out())[::3]
    rng = np.random.default_rng(20_261_123)
    unseen = _write("held_out", 40, for_choosing, CAPTIONS, UNSIZED_CAPTIONS, rng)
    test = [each for each in test_prompts() if (each.shape, each.colour, each.background) not in for_choosing]
    return development_prompts() + unseen, test


def chance() -> dict[str, float]:
    """How often a guess that ignores the prompt is right."""
    return {
        "foreground": 1 / len(COLOURS),
        "background": 1 / len(COLOURS),
        "shape": 1 / len(SHAPES),
        "size": 1 / len(SIZES),
    }


def score(prompts: Sequence[Prompt], verdicts: Sequence[Sequence[Verdict]]) -> dict[str, float]:
    """Shares of pictures that show what their prompt asked for; verdicts[i] judge the pictures of prompts[i].

    A verdict of none is a wrong answer. `size` counts the prompts that name one. A kind without prompts has no entry.
    """
    assert len(prompts) == len(verdicts), (len(prompts), len(verdicts))
    pairs = [(prompt, verdict) for prompt, each in zip(prompts, verdicts, strict=True) for verdict in each]
    metrics = _shares("judge", pairs)
    for kind in KINDS:
        of_kind = [pair for pair in pairs if pair[0].kind == kind]
        metrics |= _shares(f"judge.{kind}", of_kind)
    for length in ("x", "y", "radius"):
        metrics[f"spread.{length}"] = _spread(verdicts, length)
    return metrics


def ceiling(scenes: Sequence[Scene], verdicts: Sequence[Verdict]) -> dict[str, float]:
    """The same shares for pictures of known scenes, such as reconstructions: no prompt can score above them."""
    return _shares("judge.ceiling", list(zip(scenes, verdicts, strict=True)))


def _shares(name: str, pairs: list[tuple[Prompt | Scene, Verdict]]) -> dict[str, float]:
    if not pairs:
        return {}
    foreground = [asked.colour == seen.colour for asked, seen in pairs]
    background = [asked.background == seen.background for asked, seen in pairs]
    shape = [asked.shape == seen.shape for asked, seen in pairs]
    size = [asked.size == seen.size for asked, seen in pairs if asked.size is not None]
    shares = {
        "foreground": foreground,
        "background": background,
        "shape": shape,
        "size": size,
        "all": [all(right) for right in zip(foreground, background, shape, strict=True)],
        "none": [seen.shape is None for _, seen in pairs],
    }
    return {f"{name}.{key}": float(np.mean(right)) for key, right in shares.items() if right}


def _spread(verdicts: Iterable[Sequence[Verdict]], length: str) -> float:
    """Mean over prompts of the standard deviation over their judged pictures; 0 where no prompt has two of them."""
    lengths = [[getattr(each, length) for each in of_one if each.shape is not None] for of_one in verdicts]
    deviations = [np.std(of_one) for of_one in lengths if len(of_one) > 1]
    return float(np.mean(deviations)) if deviations else 0.0


def _shown() -> list[tuple[str, str, str]]:
    unseen = held_out()
    return [each for each in combinations() if each not in unseen]


def _write(
    kind: str,
    n: int,
    choices: list[tuple[str, str, str]],
    sized: Sequence[str],
    unsized: Sequence[str],
    rng: np.random.Generator,
    taken: frozenset[str] = frozenset(),
) -> list[Prompt]:
    """`n` prompts of different texts, every second with a size, balanced over combinations, shapes and colours."""
    made: list[Prompt] = []
    texts = set(taken)
    used = Counter()
    while len(made) < n:
        shape, colour, background = combination = min(
            (choices[i] for i in rng.permutation(len(choices))),
            key=lambda each: (used[each], sum(used[place, word] for place, word in enumerate(each))),
        )
        size = (*SIZES, None, None)[len(made) % 4]
        forms = unsized if size is None else sized
        form = list(dict.fromkeys(forms))[rng.integers(len(set(forms)))]
        word = size and SIZE_WORDS[size][rng.integers(len(SIZE_WORDS[size]))]
        text = form.format(shape=shape, colour=colour, background=background, size=word)
        if text in texts:
            continue
        texts.add(text)
        made.append(Prompt(text, shape, colour, background, size, kind))
        used.update([combination, *enumerate(combination)])
    return made
