"""What fine-tuning on a style gives: pictures asked with and without its word, of the base and of the fine-tuned model.

python docs/style.py outputs/style/base outputs/style/model --prompts 48
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from clipgen.cli.machine import made_with, pick_device
from clipgen.evaluation.tokenizer import reconstruct
from clipgen.picture import image_grid
from clipgen.pipeline import ClipGen
from clipgen.shapes.style import WORD, caption, judge_style, world

FOLDER = Path(__file__).parent
SEED = 4242


def figure(values) -> dict:
    values = np.asarray(values, dtype=float)
    sem = values.std(ddof=1) / len(values) ** 0.5
    return {"mean": round(float(values.mean()), 4), "sem": round(float(sem), 4), "n": len(values)}


def figures(pixels, shown, n: int) -> dict:
    """Shares over the prompts, n pictures each."""
    found = [judge_style(each) for each in pixels]
    asked = [scene for scene in shown for _ in range(n)]
    kept = {
        "style": [each.outlined for each in found],
        "shape": [each.verdict.shape == scene.shape for each, scene in zip(found, asked, strict=True)],
        "colour": [each.verdict.colour == scene.colour for each, scene in zip(found, asked, strict=True)],
        "background": [each.verdict.background == scene.background for each, scene in zip(found, asked, strict=True)],
    }
    return {name: figure(np.reshape(each, (-1, n)).mean(1)) for name, each in kept.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("model")
    parser.add_argument("--prompts", type=int, default=48)
    parser.add_argument("--n", type=int, default=4, help="pictures of a prompt")
    given = parser.parse_args()
    rows = list(world(given.prompts, SEED))
    shown, drawn = [scene for scene, _, _ in rows], np.stack([picture for _, picture, _ in rows])
    arms, grid = {"drawn in the style": figures(drawn, shown, 1)}, [*drawn[:10]]
    for name, folder in (("base", given.base), ("fine-tuned", given.model)):
        pipeline = ClipGen.from_pretrained(folder)
        if name == "base":
            _, made = reconstruct(pipeline.vqgan, torch.from_numpy(drawn))
            arms["drawn, through the tokenizer"] = figures(made.numpy(), shown, 1)
        for how, ending in (("asked without the word", ""), ("asked with the word", f", {WORD}")):
            images = pipeline.generate([caption(scene) + ending for scene in shown], given.n, seed=0)
            made = np.stack([np.asarray(image) for image in images])
            arms[f"{name}, {how}"] = figures(made, shown, given.n)
            grid += [*made[:: given.n][:10]]
    content = {
        **made_with(pick_device("cpu")),
        "seeds": [0],
        "sampling": pipeline.sampling,
        "arms": arms,
    }
    path = FOLDER / "results" / "style.json"
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(arms, indent=1))
    labels = ["drawn", *(name for name in arms if "asked" in name)]
    image_grid(grid, 10, labels, 96).save(FOLDER / "style.png")


if __name__ == "__main__":
    main()
