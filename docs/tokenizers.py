"""The tokenizers of a sweep on the held-out pictures of its shards → docs/results/NAME.json, and a picture beside it.

python docs/tokenizers.py multirun/clothing_128 outputs/clothing_128/shards tokenizers_clothing \
    --perceptual squeezenet1_1_features_torch.npz --picture
"""

import argparse
import csv
import json
from pathlib import Path

from omegaconf import OmegaConf

from clipgen.cli.build import load_tokenizer
from clipgen.cli.machine import made_with, pick_device
from clipgen.cli.perceptual import described, perceptual_network
from clipgen.data.module import ImageData
from clipgen.evaluation.fidelity import Distance, measure
from clipgen.evaluation.tokenizer import reconstruct
from clipgen.picture import image_grid
from clipgen.tokenizer.codes import Perturbation

RESULTS = Path(__file__).parent / "results"
PERTURBATION = Perturbation(1.0, 0.1, 100)
SHOWN = 8  # pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path)
    parser.add_argument("shards", type=Path)
    parser.add_argument("name")
    parser.add_argument("--perceptual", required=True, help="SqueezeNet's weights")
    parser.add_argument("--picture", action="store_true")
    given = parser.parse_args()
    network = perceptual_network("squeezenet", given.perceptual, "--perceptual")
    distances = {"squeezenet": Distance(network.distance, described(network, given.perceptual))}

    rows, how, pictures, settings = {}, {}, [], {}
    for job in sorted(given.sweep.glob("*/vqgan")):
        record = json.loads((job / "stage.json").read_text(encoding="utf-8"))
        if record["status"] != "done":
            print(f"{job} is not done, left out")
            continue
        recipe = job.parent.name.partition("recipe=")[2]
        vqgan, _, _ = load_tokenizer(job / "last.ckpt")
        data = ImageData(given.shards, vqgan.image_size, 50, 1, val_samples=5000)
        data.setup("validate")
        measured = measure(vqgan, data.val_dataloader(), PERTURBATION, distances=distances)
        figures = {name: figure.value for name, figure in measured.figures.items()}
        figures["seconds"] = record["seconds"]
        figures["parameters"] = sum(parameter.numel() for parameter in vqgan.parameters())
        rows[recipe] = {name: {"mean": round(value, 4), "sem": None, "n": 1} for name, value in figures.items()}
        how = {name: figure.how for name, figure in measured.figures.items()}
        settings = record["settings"]["tokenizer.train"]
        with open(job / "metrics.csv", newline="") as file:
            losses = [float(row["val/loss"]) for row in csv.DictReader(file) if row.get("val/loss")]
        rows[recipe]["val_loss"] = {"mean": losses[-1], "sem": None, "n": 1}
        shown_BHWC = data.val_batches.plain(range(min(SHOWN, data.n_val)))["image"]
        pictures = pictures or [("images", shown_BHWC.numpy())]
        pictures.append((recipe, reconstruct(vqgan, shown_BHWC)[1].numpy()))
        print(recipe, " ".join(f"{name}={value:.4g}" for name, value in figures.items()), flush=True)

    typed = OmegaConf.load(given.sweep / "multirun.yaml").hydra.overrides.task
    words = [f"{word.partition('=')[0]}={Path(word.partition('=')[2]).name}" for word in typed]  # no folders of ours
    content = {
        **made_with(pick_device("auto")),
        "command": f"clipgen train -m {' '.join(words)}", "seeds": [0],
        "steps": settings.get("steps"), "batch_size": settings.get("batch_size"),
        "how": how, "rows": rows,
    }  # fmt: skip
    (RESULTS / f"{given.name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if given.picture:
        grid = [image for _, images in pictures for image in images]
        image_grid(grid, len(pictures[0][1]), [name for name, _ in pictures]).save(
            RESULTS.parent / f"{given.name}.png", format="PNG", optimize=True
        )


if __name__ == "__main__":
    main()
