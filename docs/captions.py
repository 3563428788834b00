"""What a captioner says of the demo world's pictures, read back by its sentences, and beside two captions for nothing.

python docs/captions.py outputs/captioner/captioner --pictures 500
"""

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from clipgen.caption_pipeline import Captioner
from clipgen.cli.machine import made_with, pick_device
from clipgen.shapes.captions import read_caption
from clipgen.shapes.draw import Scene, caption, draw, held_out, scenes, world

RESULTS = Path(__file__).parent / "results"
TRAINED_ON, SEED = 20_000, 7  # pictures of seed 0, as `clipgen draw` makes them; those asked here are of another
ATTRIBUTES = ("shape", "colour", "background", "size", "all")


def figure(values: list[float]) -> dict:
    sem = float(np.std(values, ddof=1) / len(values) ** 0.5)
    return {"mean": round(float(np.mean(values)), 4), "sem": round(sem, 4), "n": len(values)}


def judged(texts: list[str], shown: list[Scene]) -> dict:
    """Share of captions that are right in what they name; one that is no sentence is wrong, and names no size."""
    found: dict[str, list[float]] = {name: [] for name in ATTRIBUTES}
    for text, scene in zip(texts, shown, strict=True):
        told = read_caption(text)
        right = dict.fromkeys(("shape", "colour", "background", "all"), False) if told is None else told.right(scene)
        for name, value in right.items():
            found[name].append(float(value))
    figures = {f"right.{name}": figure(values) for name, values in found.items() if len(values) > 1}
    return figures | {"sentences": figure([float(read_caption(text) is not None) for text in texts])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--name", default="captions", help="of the file in docs/results")
    given = parser.parse_args()
    captioner = Captioner.from_pretrained(given.model)
    frequent = Counter(text for _, _, text in world(TRAINED_ON, 0)).most_common(1)[0][0]
    rng = np.random.default_rng(SEED)
    arms, losses = {}, {}
    for name, only in (("", None), (", combinations never shown", sorted(held_out()))):
        shown = scenes(given.pictures, SEED, only)
        images, own = [Image.fromarray(draw(scene)) for scene in shown], [caption(scene, rng) for scene in shown]
        other = own[1:] + own[:1]
        arms |= {
            f"captioner{name}": judged([each[0] for each in captioner.caption(images)], shown),
            f"captioner, drawn{name}": judged([each[0] for each in captioner.caption(images, temperature=1.0)], shown),
            f"the most frequent caption{name}": judged([frequent] * len(shown), shown),
            f"a caption of another picture{name}": judged(other, shown),
        }
        of_own, of_other = (captioner.caption_loss(images, texts) for texts in (own, other))
        losses |= {
            f"caploss.own{name}": figure(of_own), f"caploss.other{name}": figure(of_other),
            f"caploss.told apart{name}": figure([float(a < b) for a, b in zip(of_own, of_other, strict=True)]),
        }  # fmt: skip
    content = {
        **made_with(pick_device("cpu")), "seeds": [SEED], "most_frequent": frequent, "arms": arms, "losses": losses,
    }  # fmt: skip
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    (RESULTS / f"{given.name}.json").write_text(text, encoding="utf-8")
    for name, figures in arms.items():
        print(name, {key: value["mean"] for key, value in figures.items()})
    print({name: value["mean"] for name, value in losses.items()})


if __name__ == "__main__":
    main()
