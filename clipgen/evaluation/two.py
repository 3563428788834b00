"""A generator of the two-object world, judged by what its pictures show: the same functions as in `world.py`."""

from collections.abc import Sequence

import numpy as np
import torch

from clipgen.clip.frozen import FrozenClip
from clipgen.data.transforms import to_model_range
from clipgen.evaluation.tokenizer import reconstruct
from clipgen.evaluation.world import DRAWN, FRESH, Judged, images_of
from clipgen.pipeline import ClipGen
from clipgen.shapes.two import COUNTS, PLURALS, Several, draw, scenes
from clipgen.shapes.two_judge import judge_many
from clipgen.shapes.two_prompts import Prompt, chance, score
from clipgen.tokenizer.vqgan import VQGAN


def judge_generator(pipeline: ClipGen, prompts: Sequence[Prompt], n: int, seed: int, **sampling) -> Judged:
    """`n` pictures for each prompt, without any selection, and the judge's figures on them."""
    images = images_of(pipeline, prompts, n, seed, **sampling)
    verdicts = judge_many(np.asarray(image) for image in images)
    return Judged(score(prompts, [verdicts[i * n : (i + 1) * n] for i in range(len(prompts))]), images)


def ceiling_of(vqgan: VQGAN, count: int = DRAWN) -> dict[str, float]:
    """The judge's figures on a tokenizer's reconstructions of fresh pictures."""
    drawn = scenes(count, FRESH)
    pixels = torch.from_numpy(np.stack([draw(scene, vqgan.image_size) for scene in drawn]))
    made = torch.cat([reconstruct(vqgan, part)[1] for part in pixels.split(100)])
    asked = [Prompt("", scene.named, scene.background, "plain") for scene in drawn]
    found = score(asked, [[verdict] for verdict in judge_many(made.numpy())])
    return {name.replace("judge.", "judge.ceiling.", 1): value for name, value in found.items()}


def yardsticks(pipeline: ClipGen, n: int, count: int = DRAWN) -> dict[str, float]:
    """Chance, and the ceiling."""
    return ceiling_of(pipeline.vqgan, count) | {f"judge.chance.{name}": value for name, value in chance().items()}


def zero_shot(clip: FrozenClip, image_size: int, count: int = 1000) -> dict[str, float]:
    """How well the CLIP itself tells fresh pictures apart by what one embedding is bad at.

    `binding`: a pair's own caption against the one with its colours exchanged (chance 1/2). `count`: how many alike
    objects there are, among captions of one, two and three (chance 1/3).
    """
    drawn = scenes(count, FRESH + 1)
    metrics = {}
    for name, members in (
        ("binding", [scene for scene in drawn if len(set(scene.named)) == 2]),
        ("count", [scene for scene in drawn if len(set(scene.named)) == 1]),
    ):
        choices = [captions_of(scene) for scene in members]
        right = [texts.index(own) for own, texts in choices]
        text_NE = clip.encode_text([text for _, texts in choices for text in texts])
        pixels = torch.from_numpy(np.stack([draw(scene, image_size) for scene in members])).to(text_NE.device)
        image_NE = torch.cat([clip.encode_image(part) for part in to_model_range(pixels).split(250)])
        chosen = (image_NE[:, None] * text_NE.view(len(members), -1, text_NE.shape[1])).sum(-1).argmax(1).tolist()
        metrics[f"clip.zero_shot.{name}"] = float(np.mean([i == j for i, j in zip(chosen, right, strict=True)]))
    return metrics


def captions_of(scene: Several) -> tuple[str, list[str]]:
    """A scene's caption, and all that it is to be told from, itself among them; in an order that tells nothing."""
    ground = f"on a {scene.background} background"
    (shape, colour), *others = scene.named
    if len(set(scene.named)) == 2:
        other, its = others[0]
        own = f"a {colour} {shape} and a {its} {other} {ground}"
        return own, sorted([own, f"a {its} {shape} and a {colour} {other} {ground}"])
    texts = [f"{word} {colour} {noun} {ground}"
             for word, noun in (("one", shape), ("two", PLURALS[shape]), ("three", PLURALS[shape]))]  # fmt: skip
    return texts[COUNTS.index(len(scene.named))], texts
