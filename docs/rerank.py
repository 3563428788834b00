"""What re-ranking gains on development prompts of the demo, by its pixel judge, and what batch and precision change.

python docs/rerank.py outputs/demo/model --prompts 24 --candidates 16 --keep 4
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from clipgen.caption_pipeline import Captioner
from clipgen.cli.machine import made_with, pick_device
from clipgen.data.transforms import to_uint8
from clipgen.evaluation.bootstrap import paired_difference
from clipgen.pipeline import ClipGen
from clipgen.shapes.judge import judge_many
from clipgen.shapes.prompts import Prompt, development_prompts
from clipgen.transformer.packed import prepared
from clipgen.transformer.sampling import generate

OPTIONS = ("guidance_scale", "guidance_schedule", "temperature", "top_k", "top_p", "min_p")
RESULTS = Path(__file__).parent / "results"


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


def rerank(
    pipeline: ClipGen, prompts: list[Prompt], candidates: int, keep: int, captioner: Captioner | None
) -> tuple[dict, dict]:
    """Per arm and attribute the share of right pictures of a prompt, over the prompts, and what each arm gains."""
    texts = [prompt.text for prompt in prompts]
    kept = {"none": pipeline.generate(texts, keep)}
    kept |= {arm: pipeline.generate_best(texts, candidates, keep, arm) for arm in ("clip", "self")}
    if captioner is not None:
        kept["caption"] = pipeline.generate_best(texts, candidates, keep, "caption", captioner=captioner)
    arms, every = {}, {}
    for arm, images in kept.items():
        verdicts = judge_many(np.asarray(image) for image in images)
        shares: dict[str, list[float]] = {}
        for i, prompt in enumerate(prompts):
            judged = [right(prompt, verdict) for verdict in verdicts[i * keep : (i + 1) * keep]]
            for name in judged[0]:
                shares.setdefault(name, []).append(float(np.mean([each[name] for each in judged])))
        arms[arm] = {f"judge.{name}": figure(values) for name, values in shares.items()}
        every[arm] = shares["all"]
    pairs = [(arm, than) for arm in every for than in ("none", "clip") if arm not in ("none", than)]
    gains = {f"{arm} - {than}": gain(every[arm], every[than]) for arm, than in pairs}
    return arms, gains


def gain(values: list[float], others: list[float]) -> dict:
    """The mean difference of the same prompts, with its 95 % interval over them."""
    found = paired_difference([values], [others])
    return {"mean": round(found.mean, 4), "low": round(found.low, 4), "high": round(found.high, 4), "n": found.n}


@torch.inference_mode()
def made(pipeline: ClipGen, texts: list[str], size: int, precision: str) -> tuple[torch.Tensor, np.ndarray]:
    """Tokens (B, L) and pixels of one image of each text, in batches of `size`, by the model's own settings."""
    model = prepared(pipeline.transformer, precision)
    condition_BE = pipeline.bridge(pipeline.clip.encode_text(texts))
    options = {key: pipeline.sampling[key] for key in OPTIONS}
    tokens, pixels = [], []
    for start in range(0, len(texts), size):
        part_BE = condition_BE[start : start + size]
        level_B = part_BE.new_full((len(part_BE),), pipeline.sampling["fidelity"])
        tokens.append(generate(model, part_BE, level_B, range(start, start + len(part_BE)), **options))
        pixels.append(to_uint8(pipeline.vqgan.decode(tokens[-1])))
    return torch.cat(tokens).flatten(1), torch.cat(pixels).cpu().numpy().astype(int)


def agreement(pipeline: ClipGen, texts: list[str]) -> dict:
    """Shares of equal tokens and of images with all tokens equal, against a batch of 8 in float32."""
    token_BL, pixels = made(pipeline, texts, 8, "fp32")
    found = {}
    for name, size, precision in (
        ("fp32, batch of 1", 1, "fp32"),
        ("fp32, all in a batch", len(texts), "fp32"),
        ("bf16, batch of 8", 8, "bf16"),
    ):
        other_BL, other_pixels = made(pipeline, texts, size, precision)
        same_BL = token_BL == other_BL
        found[name] = {
            "tokens": round(float(same_BL.float().mean()), 4),
            "images": round(float(same_BL.all(1).float().mean()), 4),
            "first token": round(float(same_BL[:, 0].float().mean()), 4),
            "n": len(texts),
        }
        if same_BL.all():
            found[name]["largest pixel difference"] = int(np.abs(pixels - other_pixels).max())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    for name, value in (("prompts", 24), ("candidates", 16), ("keep", 4)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--captioner", help="a captioner's model folder, for rerank=caption")
    parser.add_argument("--name", default="rerank", help="of the file in docs/results")
    given = parser.parse_args()
    pipeline = ClipGen.from_pretrained(given.model)
    every = development_prompts()
    prompts = every[:: len(every) // given.prompts][: given.prompts]
    captioner = Captioner.from_pretrained(given.captioner) if given.captioner else None
    arms, gains = rerank(pipeline, prompts, given.candidates, given.keep, captioner)
    content = {
        **made_with(pick_device("cpu")),
        "seeds": [0],
        "sampling": pipeline.sampling,
        "arms": arms,
        "gains": gains,
        "agreement": agreement(pipeline, [prompt.text for prompt in prompts]),
    }
    content_text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    (RESULTS / f"{given.name}.json").write_text(content_text, encoding="utf-8")
    print(json.dumps(content["arms"] | content["gains"] | content["agreement"], indent=1))


if __name__ == "__main__":
    main()
