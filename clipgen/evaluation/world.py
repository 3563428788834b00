"""A generator of the demo world, judged by what its pictures show; no CLIP takes part in the verdict."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from clipgen.clip.frozen import FrozenClip
from clipgen.data.transforms import to_model_range
from clipgen.evaluation.tokenizer import reconstruct
from clipgen.generator import image_seed
from clipgen.pipeline import ClipGen
from clipgen.shapes.draw import SIZES, Scene, combinations, draw, scenes
from clipgen.shapes.judge import judge_many
from clipgen.shapes.prompts import Prompt, ceiling, chance, score
from clipgen.tokenizer.vqgan import VQGAN

FRESH = 20_260_722  # seed of pictures that neither the generator nor its CLIP was shown
DRAWN = 500  # such pictures


@dataclass(frozen=True)
class Judged:
    metrics: dict[str, float]
    images: list[Image.Image]  # n for each prompt, in order


def judge_generator(pipeline: ClipGen, prompts: Sequence[Prompt], n: int, seed: int, **sampling) -> Judged:
    """`n` pictures for each prompt, without any selection, and the judge's figures on them."""
    images = images_of(pipeline, prompts, n, seed, **sampling)
    verdicts = judge_many(np.asarray(image) for image in images)
    return Judged(score(prompts, [verdicts[i * n : (i + 1) * n] for i in range(len(prompts))]), images)


def images_of(pipeline: ClipGen, prompts: Sequence[Any], n: int, seed: int, **sampling) -> list[Image.Image]:
    """`n` pictures for the text of each prompt, in order."""
    texts = [prompt.text for prompt in prompts]
    with tqdm(total=n * len(texts), desc="generating from text", unit="img") as bar:
        return pipeline.generate(texts, n, seed, bar.update, **sampling)


def judge_by_pictures(pipeline: ClipGen, prompts: Sequence[Prompt], n: int, seed: int, **sampling) -> Judged:
    """The same figures where each image is asked for by a fresh picture of what its prompt says, not by the words."""
    size = pipeline.vqgan.image_size
    drawn = [scene for i, prompt in enumerate(prompts) for scene in scenes_of(prompt, n, FRESH + 1000 * seed + i)]
    pictures = [Image.fromarray(draw(scene, size)) for scene in drawn]
    condition_BE = pipeline.image_conditions(pictures)
    seeds = [image_seed(prompt.text, seed, i) for prompt in prompts for i in range(n)]
    with tqdm(total=len(seeds), desc="generating from pictures", unit="img") as bar:
        images = pipeline.from_conditions(condition_BE, seeds, bar.update, **sampling)
    verdicts = judge_many(np.asarray(image) for image in images)
    return Judged(score(prompts, [verdicts[i * n : (i + 1) * n] for i in range(len(prompts))]), images)


def scenes_of(prompt: Prompt, n: int, seed: int) -> list[Scene]:
    """`n` scenes that a prompt describes; of the size it names, if any."""
    drawn = scenes(20 * n, seed, only=[(prompt.shape, prompt.colour, prompt.background)])
    found = [scene for scene in drawn if prompt.size in (None, scene.size)][:n]
    assert len(found) == n, (prompt, seed)
    return found


def ceiling_of(vqgan: VQGAN, count: int = DRAWN) -> dict[str, float]:
    """The judge's figures on a tokenizer's reconstructions of fresh pictures."""
    drawn = scenes(count, FRESH)
    pixels = torch.from_numpy(np.stack([draw(scene, vqgan.image_size) for scene in drawn]))
    made = torch.cat([reconstruct(vqgan, part)[1] for part in pixels.split(100)])
    return ceiling(drawn, judge_many(made.numpy()))


def yardsticks(pipeline: ClipGen, n: int, count: int = DRAWN) -> dict[str, float]:
    """What the generator's figures are to be read against.

    Chance; the ceiling (`ceiling_of`); and the spread of place and size over `n` drawn pictures of the same thing.
    """
    drawn, metrics = scenes(count, FRESH), ceiling_of(pipeline.vqgan, count)
    metrics |= {f"judge.chance.{name}": value for name, value in chance().items()}
    for name in ("x", "y", "radius"):
        groups = np.array([getattr(scene, name) for scene in drawn[: count // n * n]]).reshape(-1, n)
        metrics[f"spread.training.{name}"] = float(groups.std(1).mean())
    return metrics


def zero_shot(clip: FrozenClip, image_size: int, count: int = 1000) -> dict[str, float]:
    """How well the CLIP itself tells fresh pictures apart, per attribute, among captions of all combinations."""
    every = combinations()
    text_NE = clip.encode_text([f"a {colour} {shape} on a {ground} background" for shape, colour, ground in every])
    drawn = scenes(count, FRESH + 1)
    image_BE = _embed(clip, drawn, image_size)
    chosen = [every[i] for i in (image_BE @ text_NE.T).argmax(1).tolist()]
    names = ("shape", "foreground", "background")
    metrics = {
        f"clip.zero_shot.{name}": float(
            np.mean([got[i] == scene.combination[i] for got, scene in zip(chosen, drawn, strict=True)])
        )
        for i, name in enumerate(names)
    }
    texts = [f"a {size} {s.colour} {s.shape} on a {s.background} background" for s in drawn for size in SIZES]
    text_BSE = clip.encode_text(texts).view(count, len(SIZES), -1)
    sizes = (image_BE[:, None] * text_BSE).sum(-1).argmax(1).tolist()
    metrics["clip.zero_shot.size"] = float(
        np.mean([list(SIZES)[i] == s.size for i, s in zip(sizes, drawn, strict=True)])
    )
    own_BE = text_BSE[torch.arange(count), [list(SIZES).index(scene.size) for scene in drawn]]
    metrics["clip.gap"] = float((image_BE.mean(0) - own_BE.mean(0)).norm())
    return metrics


def _embed(clip: FrozenClip, drawn: Sequence[Scene], image_size: int) -> torch.Tensor:
    pixels = torch.from_numpy(np.stack([draw(scene, image_size) for scene in drawn]))
    parts = to_model_range(pixels.to(clip.mean_C11.device)).split(250)
    return torch.cat([clip.encode_image(part) for part in parts])
