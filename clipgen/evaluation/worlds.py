"""What a comparison asks for, and who reads the answers: prompts to choose by, prompts to report, a mark for each.

P prompts, M = P·n pictures
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from clipgen.clip.frozen import FrozenClip
from clipgen.evaluation import two, world
from clipgen.evaluation.ablation import ATTRIBUTES
from clipgen.evaluation.extractors import of_clip
from clipgen.evaluation.metrics import Pictures, clip_score
from clipgen.shapes import judge, two_judge, two_prompts
from clipgen.shapes.judge import Verdict
from clipgen.shapes.prompts import Prompt, ablation_prompts
from clipgen.tokenizer.vqgan import VQGAN

SPLITS = ("development", "test")
TITLES = {  # of the judge's figures, where it is not simply the name
    "none": "not read by the judge", "all": "everything right", "binding": "each colour on its shape",
    "swapped": "each colour on the other shape", "colour": "both colours right", "count": "number right",
    **{f"count_of_{n}": f"number right, of {word}" for n, word in enumerate(("one", "two", "three"), start=1)},
}  # fmt: skip
LOWER = ("none", "swapped")


@dataclass(frozen=True)
class World:
    """`judge(split, pictures)` takes n pictures of each prompt, in order: metric → (P,), NaN where it is not asked.

    `aim` is the metric by which settings are chosen, `how` says how all of them are measured. `ceiling`, where the
    pictures asked for can be drawn, gives what the judge says of a tokenizer's reconstructions of such, by metric.
    """

    name: str
    prompts: dict[str, list[str]]
    judge: Callable[[str, Sequence[Image.Image]], dict[str, np.ndarray]]
    aim: str
    how: dict[str, str]
    ceiling: Callable[[VQGAN], dict[str, float]] | None = None

    def described(self, metric: str) -> dict[str, str]:
        """For a reader of the figure."""
        words = metric.split(".")
        title = TITLES.get(words[-1], f"{words[-1]} right") if words[0] == "judge" else "CLIP score"
        better = "lower" if words[-1] in LOWER else "higher"
        return {"title": title + ", combinations never shown" * ("held_out" in words), "better": better, **self.how}


def shapes_world() -> World:
    """The demo world; a third of the held-out combinations is among the development prompts."""
    return _judged("shapes", ablation_prompts(), judge.judge_many, shape_values, world.ceiling_of)


def two_world() -> World:
    """The two-object world: which colour belongs to which shape, and how many."""
    sets = two_prompts.development_prompts(), two_prompts.test_prompts()
    return _judged("two", sets, two_judge.judge_many, two_prompts.values, two.ceiling_of)


def _judged(
    name: str, sets: Sequence[list], judge_many: Callable[[Iterable], list], values: Callable, ceiling_of: Callable
) -> World:
    asked = dict(zip(SPLITS, sets, strict=True))

    def judged(split: str, images: Sequence[Image.Image]) -> dict[str, np.ndarray]:
        n = len(images) // len(asked[split])
        verdicts = judge_many(np.asarray(image) for image in images)
        return values(asked[split], [verdicts[i : i + n] for i in range(0, len(images), n)])

    def ceiling(vqgan: VQGAN) -> dict[str, float]:
        return {key.replace("judge.ceiling.", "judge."): value for key, value in ceiling_of(vqgan).items()}

    by = f"{judge_many.__module__}, which reads pixels and knows no CLIP; a picture that it cannot read is wrong"
    how = {"implementation": by, "resize": "none", "reference": "the prompt"}
    return World(
        name, {split: [p.text for p in each] for split, each in asked.items()}, judged, "judge.all", how, ceiling
    )


def shape_values(prompts: Sequence[Prompt], verdicts: Sequence[Sequence[Verdict]]) -> dict[str, np.ndarray]:
    """Share of each prompt's pictures that are right; NaN for the size where none is named."""
    found = {name: np.full(len(prompts), np.nan) for name in (*ATTRIBUTES, "all")}
    for i, (asked, seen) in enumerate(zip(prompts, verdicts, strict=True)):
        right = {
            "foreground": [each.colour == asked.colour for each in seen],
            "background": [each.background == asked.background for each in seen],
            "shape": [each.shape == asked.shape for each in seen],
        }
        right["all"] = [all(three) for three in zip(*right.values(), strict=True)]
        if asked.size is not None:
            right["size"] = [each.size == asked.size for each in seen]
        for name, of_pictures in right.items():
            found[name][i] = np.mean(of_pictures)
    unseen = np.array([prompt.kind == "held_out" for prompt in prompts])
    values = {f"judge.{name}": each for name, each in found.items()}
    return values | {f"judge.held_out.{name}": np.where(unseen, each, np.nan) for name, each in found.items()}


def captioned_world(captions: Sequence[str], clip: FrozenClip, most: int) -> World:
    """One's own pictures: captions of held-out ones are asked for, `most` of each split, and a CLIP says how well."""
    texts = list(dict.fromkeys(captions))
    prompts = {split: texts[i::2][:most] for i, split in enumerate(SPLITS)}
    extractor = of_clip(clip)

    def judged(split: str, images: Sequence[Image.Image]) -> dict[str, np.ndarray]:
        return {"clip.score": clip_score(Pictures.of(images, split), prompts[split], clip)[1].mean(1)}

    by = f"cosine of {extractor.implementation}"
    how = {"implementation": by, "resize": extractor.resize, "reference": "the prompt"}
    return World("captions", prompts, judged, "clip.score", how)
