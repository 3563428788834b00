"""What a job of a sweep is judged by: a column of its stage's metrics.csv, or a figure of metrics.json."""

import csv
import difflib
import json
import math
from pathlib import Path

from clipgen.errors import UserError

LOWER = ("loss", "rms", "fid", "cmmd", "seconds", "perceptual", "l1", "l2", "cross_entropy", "caploss")
HIGHER = ("judge", "psnr", "ssim", "score", "accuracy", "zero_shot", "usage", "perplexity", "retrieval", "precision",
          "recall", "density", "coverage", "images_per_second")  # fmt: skip
WRONG = ("none", "swapped")  # verdicts of a judge
NEITHER = ("nearest",)  # far from every training picture, or a copy of one: neither is the better


def direction_of(metric: str, given: str | None) -> str:
    """minimize or maximize: as given, or as the metric's name says; UserError where neither does."""
    if given not in (None, "minimize", "maximize"):
        raise UserError(f"direction={given}; take minimize or maximize")
    if given:
        return given
    words = metric.replace("/", ".").split(".")
    if words[-1] in WRONG:
        return "minimize"
    for way, known in (("maximize", HIGHER), ("minimize", LOWER)):
        if words[0] not in NEITHER and any(part in word for word in words for part in known):
            return way
    raise UserError(f"metric={metric} does not say which way is better; add direction=minimize or direction=maximize")


def stage_folder(stage: str, task: str) -> str:
    """What the folder of a stage is called."""
    return "caption" if task == "caption" else stage


def is_figure(metric: str) -> bool:
    """Whether it is one of metrics.json, which are made after the training."""
    return "/" not in metric


def check_asked(cfg) -> None:
    """UserError for a figure of images that nothing is asked for."""
    if cfg.task == "caption" and is_figure(cfg.metric):
        raise UserError(f"metric={cfg.metric} is a figure of images, of which a captioner makes none; leave it out")
    by_text = cfg.metric.startswith("clip.score") or (cfg.stage == "paired" and is_figure(cfg.metric))
    if by_text and not cfg.prompts and not cfg.world:
        raise UserError(f"metric={cfg.metric} needs something to ask for; give prompts='[a red bird,a blue one]'")


def score_of(folder: Path, stage: str, metric: str) -> float:
    """The metric of a job's folder; UserError where it has none of this name."""
    if metric == "val/loss":
        from clipgen.cli.train import best_score

        values = {} if (score := best_score(folder / stage)) is None else {metric: score}
        source = folder / stage / "metrics.csv"
    elif is_figure(metric):
        source = folder / "metrics.json"
        values = json.loads(source.read_text("utf-8")) if source.is_file() else {}
    else:
        source = folder / stage / "metrics.csv"
        values = _last_values(source)
    value = values.get(metric)
    if not isinstance(value, int | float) or not math.isfinite(value):
        near = difflib.get_close_matches(metric, values, 1)
        hint = f"; do you mean {near[0]}?" if near else "; trainer.val_samples=0 measures none" * (metric == "val/loss")
        raise UserError(f"metric={metric} is not among the figures of {source}{hint}")
    return float(value)


def _last_values(path: Path) -> dict[str, float]:
    """The last value of every column."""
    found: dict[str, float] = {}
    if path.is_file():
        with open(path, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                found |= {name: float(text) for name, text in row.items() if name and text}
    return found
