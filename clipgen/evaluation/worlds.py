"""What a comparison asks for, and who reads the answers: prompts to choose by, prompts to report, a verdict for each.

P prompts, M = P·n pictures
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from clipgen.clip.frozen import FrozenClip
from clipgen.evaluation.ablation import ATTRIBUTES
from clipgen.evaluation.extractors import of_clip
from clipgen.evaluation.metrics import Pictures, clip_score
from clipgen.shapes.judge import Verdict, judge_many
from clipgen.shapes.prompts import Prompt, ablation_prompts

SPLITS = ("development", "test")
Judge = Callable[[str, Sequence[Image.Image]], dict[str, np.ndarray]]


@dataclass(frozen=True)
class World:
    """`judge(split, pictures)` takes n pictures of each prompt, in order: metric → (P,), NaN where it is not asked.

    `metrics` describes those of the judge, `aim` is the one by which settings are chosen.
    """

    name: str
    prompts: dict[str, list[str]]
    judge: Judge
    aim: str
    metrics: dict[str, dict[str, str]]


def shapes_world() -> World:
    """The demo world, judged by pixels; held-out combinations stand apart."""
    sets = dict(zip(SPLITS, ablation_prompts(), strict=True))

    def judge(split: str, images: Sequence[Image.Image]) -> dict[str, np.ndarray]:
        asked = sets[split]
        n = len(images) // len(asked)
        verdicts = judge_many(np.asarray(image) for image in images)
        return shape_values(asked, [verdicts[i * n : (i + 1) * n] for i in range(len(asked))])

    titles = {name: f"{name.replace('_', ' ')} right" for name in ATTRIBUTES} | {"all": "shape and colours right"}
    metrics = {f"judge.{name}": _described(title) for name, title in titles.items()}
    metrics |= {f"judge.held_out.{name}": _described(f"{title}, unseen") for name, title in titles.items()}
    return World(
        "shapes", {split: [p.text for p in asked] for split, asked in sets.items()}, judge, "judge.all", metrics
    )


def _described(title: str) -> dict[str, str]:
    how = "clipgen.shapes.judge, which reads pixels and knows no CLIP; a picture it cannot read is wrong"
    return {"title": title, "better": "higher", "implementation": how, "resize": "none", "reference": "the prompt"}


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

    def judge(split: str, images: Sequence[Image.Image]) -> dict[str, np.ndarray]:
        values_Pn = clip_score(Pictures.of(images, split), prompts[split], clip)[1]
        return {"clip.score": values_Pn.mean(1)}

    metric = {
        "title": "CLIP score", "better": "higher", "implementation": f"cosine of {extractor.implementation}",
        "resize": extractor.resize, "reference": "the prompt",
    }  # fmt: skip
    return World("captions", prompts, judge, "clip.score", {"clip.score": metric})
