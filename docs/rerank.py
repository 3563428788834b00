"""What re-ranking gains on development prompts of the demo, by its pixel judge, and what batch and precision change.

python docs/rerank.py outputs/demo/model --prompts 24 --candidates 16 --keep 4
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

from clipgen.cli.machine import describe, pick_device
from clipgen.pipeline import ClipGen, image_seed
from clipgen.shapes.judge import judge_many
from clipgen.shapes.prompts import Prompt, development_prompts

RESULT = Path(__file__).parent / "results" / "rerank.json"


def right(prompt: Prompt, verdict) -> dict[str, bool]:
    found = {name: getattr(verdict, name) == getattr(prompt, name) for name in ("shape", "colour", "background")}
    if prompt.size is not None:
        found["size"] = verdict.size == prompt.size
    return found | {"all": all(found.values())}


def figure(values: list[float]) -> dict:
    return {
        "mean": round(float(np.mean(values)), 4),
        "sem": round(float(np.std(values, ddof=1) / len(values) ** 0.5), 4),
        "n": len(values),
    }


def rerank(pipeline: ClipGen, prompts: list[Prompt], candidates: int, keep: int) -> dict:
    """Per arm and attribute the share of right pictures of a prompt, over the prompts."""
    texts = [prompt.text for prompt in prompts]
    condition_BE = pipeline._text_conditions(texts).repeat_interleave(candidates, 0)
    seeds = [image_seed(text, 0, i) for text in texts for i in range(candidates)]
    images, preferences = pipeline._sampled(condition_BE, seeds, prefer=True)
    clip = pipeline.scores(images, [text for text in texts for _ in range(candidates)])
    verdicts = judge_many(np.asarray(image) for image in images)
    arms = {}
    for arm, scores in (("none", np.zeros(len(seeds))), ("clip", clip), ("self", preferences)):
        shares: dict[str, list[float]] = {}
        for i, prompt in enumerate(prompts):
            ranked = sorted(range(i * candidates, (i + 1) * candidates), key=lambda at: -scores[at])[:keep]
            judged = [right(prompt, verdicts[at]) for at in ranked]
            for name in judged[0]:
                shares.setdefault(name, []).append(float(np.mean([each[name] for each in judged])))
        arms[arm] = {f"judge.{name}": figure(values) for name, values in shares.items()}
    return arms


def agreement(pipeline: ClipGen, texts: list[str]) -> dict:
    """Shares of equal tokens and of images with all tokens equal, against a batch of 8 in float32."""
    condition_BE = pipeline._text_conditions(texts)
    decode, made = pipeline.vqgan.decode, []
    pipeline.vqgan.decode = lambda tokens_Bhw: (made.append(tokens_Bhw.flatten(1)), decode(tokens_Bhw))[1]

    def tokens_of(**options) -> tuple[torch.Tensor, np.ndarray]:
        made.clear()
        images = pipeline.from_conditions(condition_BE, range(len(texts)), **options)
        return torch.cat(made), np.stack([np.asarray(image, dtype=int) for image in images])

    token_BL, pixels = tokens_of(batch_size=8)
    found = {}
    for name, options in {
        "fp32, batch of 1": {"batch_size": 1},
        "fp32, all in a batch": {"batch_size": len(texts)},
        "bf16, batch of 8": {"batch_size": 8, "precision": "bf16"},
    }.items():
        other_BL, other_pixels = tokens_of(**options)
        same_BL = token_BL == other_BL
        found[name] = {
            "tokens": round(float(same_BL.float().mean()), 4),
            "images": round(float(same_BL.all(1).float().mean()), 4),
            "first token": round(float(same_BL[:, 0].float().mean()), 4),
            "n": len(texts),
        }
        if same_BL.all():
            found[name]["largest pixel difference"] = int(np.abs(pixels - other_pixels).max())
    pipeline.vqgan.decode = decode
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    for name, value in (("prompts", 24), ("candidates", 16), ("keep", 4)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    pipeline = ClipGen.from_pretrained(given.model)
    every = development_prompts()
    prompts = every[:: len(every) // given.prompts][: given.prompts]
    content = {
        "command": " ".join(["python", *sys.argv]),
        "hardware": describe(pick_device("cpu"))["device"],
        "date": time.strftime("%Y-%m-%d"),
        "seeds": [0],
        "sampling": pipeline.sampling,
        "arms": rerank(pipeline, prompts, given.candidates, given.keep),
        "agreement": agreement(pipeline, [prompt.text for prompt in prompts]),
    }
    RESULT.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(content["arms"] | content["agreement"], indent=1))


if __name__ == "__main__":
    main()
