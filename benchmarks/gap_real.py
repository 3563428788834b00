"""What bridges do to real CLIP embeddings: average precision of the images whose caption has a name.

    python -m benchmarks.gap_real FOLDER --json docs/results/gap_real.json

A text "a NAME" ranks 1,000 photos by the cosine of its condition with theirs. What knows of images (mean, covariance,
the bank of knn) is made of the other folds than the image that is scored. Text statistics are of 2,148 names, unpaired.

N images, C names, E embedding size
"""

import argparse
import csv
import re
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clipgen.cli.machine import made_with
from clipgen.data.atomic import write_json
from clipgen.evaluation.gap import BRIDGES, average_precision, measure_bridges, measure_gap, moments
from clipgen.evaluation.gap_picture import gap_picture
from clipgen.transformer.bridges import bridge
from clipgen.transformer.condition import centre

FOLDS = 5
LEAST = 5  # captions that have a name


def read(folder: Path) -> tuple[Tensor, Tensor, list[str], Tensor, list[str]]:
    """(images (N, E), texts of the names (C, E), names, all texts, captions); embeddings of unit length."""
    load = lambda name: F.normalize(torch.from_numpy(np.load(folder / name, allow_pickle=False)).float(), dim=-1)  # noqa: E731
    names = (folder / "lvis_v1_names.txt").read_text().splitlines()
    text_CE = load("lvis_v1_clip_a+cname.npy")
    others = [load(path.name) for path in sorted(folder.glob("*cname*.npy")) if "lvis" not in path.name]
    with open(folder / "flickr8k_image_rows.tsv", newline="") as file:
        captions = [row["caption"].lower() for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
    return load("flickr8k_image_emb_1000x512_f16.npy"), text_CE, names, torch.cat([text_CE, *others]), captions


def relevant(names: list[str], captions: list[str]) -> dict[int, Tensor]:
    """Of each name that LEAST captions have, as a word or its plural: whether each caption has it."""
    found = {}
    for i, name in enumerate(names):
        word = re.escape(re.sub(r"_\(.*", "", name).replace("_", " "))
        has = torch.tensor([re.search(rf"\b{word}s?\b", caption) is not None for caption in captions])
        if has.sum() >= LEAST:
            found[i] = has
    return found


def scores(name: str, image_NE: Tensor, query_CE: Tensor, text_ME: Tensor) -> Tensor:
    """Cosines (C, N) of the conditions of the queries with those of the images, by statistics of the other folds."""
    score_CN, fold_N = torch.empty(len(query_CE), len(image_NE)), torch.arange(len(image_NE)) % FOLDS
    for fold in range(FOLDS):
        known_NE, scored_N = image_NE[fold_N != fold], fold_N == fold
        statistics = moments(known_NE, text_ME)
        condition_NE = centre(image_NE[scored_N], statistics["image_mean"])
        score_CN[:, scored_N] = bridge(name, query_CE, statistics, known_NE) @ condition_NE.T
    return score_CN


def precision(folder: Path) -> dict[str, dict[str, float]]:
    """Mean average precision over the names, with the standard error of its difference from bridge mean."""
    image_NE, text_CE, names, text_ME, captions = read(folder)
    wanted = relevant(names, captions)
    query_CE = text_CE[list(wanted)]
    made = {name: scores(name, image_NE, query_CE, text_ME) for name in BRIDGES}
    made["raw cosine"] = query_CE @ image_NE.T
    every = {
        name: np.array([average_precision(row, has) for row, has in zip(score_CN, wanted.values(), strict=True)])
        for name, score_CN in made.items()
    }
    chance = float(np.mean([float(has.float().mean()) for has in wanted.values()]))
    found = {"chance": {"map": chance}}
    for name, each in every.items():
        difference = each - every["mean"]
        found[name] = {
            "map": float(each.mean()),
            "minus_mean": float(difference.mean()),
            "minus_mean_se": float(difference.std(ddof=1) / len(each) ** 0.5),
        }
    return {"names": len(wanted), "bridges": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--png", type=Path)
    args = parser.parse_args()
    image_NE, text_CE, *_, text_ME, _ = read(args.folder)
    half_NE, rest_NE = image_NE[::2], image_NE[1::2]
    statistics = moments(half_NE, text_ME)
    places = measure_bridges(rest_NE, text_CE, statistics, half_NE)
    found = precision(args.folder)
    print(f"{'bridge':<14}{'centroids':>10}{'nearest':>9}{'mAP':>8}{'minus mean':>12}{'± se':>7}")
    for name in ("image", "chance", "raw cosine", *BRIDGES):
        place, each = places.get(name, {}), found["bridges"].get(name, {})
        cells = [place.get("centroid_distance"), place.get("cosine_nearest"), each.get("map")]
        cells += [each.get("minus_mean"), each.get("minus_mean_se")]
        print(f"{name:<14}" + "".join("        –" if cell is None else f"{cell:>9.3f}" for cell in cells))
    if args.json:
        facts = {
            **made_with(torch.device("cpu")),
            "command": f"python -m benchmarks.gap_real FOLDER --json {args.json}",
            "gap": measure_gap(image_NE, text_ME), "places": places, "precision": found,
        }  # fmt: skip
        write_json(args.json, facts)
    if args.png:
        gap_picture(rest_NE, text_CE, statistics, half_NE, places).save(args.png)


if __name__ == "__main__":
    main()
