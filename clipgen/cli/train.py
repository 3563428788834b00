"""`clipgen train stage=…`: one stage, into the run's folder, or a job's in a sweep."""

import sys
from pathlib import Path

from clipgen.check import check
from clipgen.cli.launch import join, launch, launched
from clipgen.cli.score import check_asked, is_figure, stage_folder
from clipgen.config import STAGES, Config
from clipgen.errors import UserError


def main(cfg: Config) -> float | None:
    from clipgen.config import complete

    cfg = complete(cfg)
    if cfg.stage not in STAGES:
        raise UserError(f"stage={cfg.stage} is no stage; take one of {', '.join(STAGES)}")
    check(cfg)
    check_asked(cfg)
    folder = job_folder(cfg) / stage_folder(cfg.stage, cfg.task)
    if cfg.trainer.devices > 1 and not launched():
        launch(cfg.trainer.devices, ["train", *sys.argv[1:]])
        return best_score(folder)
    from clipgen.cli.imports import adopt_tokenizer
    from clipgen.cli.machine import pick_device
    from clipgen.cli.run import fill_from_shards, print_choices, use_threads
    from clipgen.cli.say import say
    from clipgen.cli.stages import train_clip, train_transformer, train_vqgan
    from clipgen.cli.train_paired import train_paired
    from clipgen.cli.train_super import train_super

    join(pick_device(cfg.trainer.device).type)
    use_threads(cfg)
    if cfg.stage == "vqgan":
        print_choices(adopt_tokenizer(cfg))
    if cfg.stage in ("transformer", "paired", "super"):
        fill_from_shards(cfg, cfg.latents, "latents", ["transformer", "trainer"])
    else:
        fill_from_shards(cfg, cfg.shards, "images", ["tokenizer" if cfg.stage == "vqgan" else cfg.stage, "trainer"])
    check(cfg)
    stages = {
        "vqgan": train_vqgan, "transformer": train_transformer, "paired": train_paired, "super": train_super,
        "clip": train_clip,
    }  # fmt: skip
    record = stages[cfg.stage](cfg, folder)
    if cfg.stage in ("transformer", "paired") and is_figure(cfg.metric):
        judge(cfg, folder)
    score = best_score(folder)
    shown = "" if score is None else f", val/loss {score:.4f}"
    say(f"{folder.name}: done in {record.seconds:.0f} s{shown}; it is in {folder}")
    return score


def judge(cfg: Config, folder: Path) -> None:
    """The figures of a run, of a stage 2 on its own: metrics.json and pictures beside its folder; kept when done."""
    from clipgen.cli.assemble import assemble_stage
    from clipgen.cli.machine import pick_device
    from clipgen.cli.results import evaluate_once

    evaluate_once(cfg, lambda: assemble_stage(cfg, folder, pick_device(cfg.trainer.device)), folder)


def job_folder(cfg: Config) -> Path:
    """`out`, or in a sweep the job's own folder: sweeps share the run's data and never its models."""
    from hydra.core.hydra_config import HydraConfig

    folder = HydraConfig.get().run.dir
    return Path(cfg.out) if folder == "." else Path(folder)


def best_score(folder: Path) -> float | None:
    """The least val/loss in a stage's metrics.csv; of a VQGAN and a CLIP the last, as their last weights are used."""
    import csv

    path = folder / "metrics.csv"
    if not path.exists():
        return None
    with open(path, newline="") as file:
        losses = [float(row["val/loss"]) for row in csv.DictReader(file) if row.get("val/loss")]
    if not losses:
        return None
    return losses[-1] if folder.name in ("vqgan", "clip") else min(losses)
