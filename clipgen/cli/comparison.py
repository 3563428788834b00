"""compare.json: what a comparison found, under dotted names, with how each figure was measured."""

import csv
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from clipgen.cli.asking import save_picture
from clipgen.cli.build import load_clip_once
from clipgen.cli.machine import made_with, pick_device
from clipgen.clip.cost import clip_cost
from clipgen.evaluation.bootstrap import bootstrap, paired_difference
from clipgen.evaluation.compare import REFERENCE, bars, stacked

if TYPE_CHECKING:
    from clipgen.cli.compare import Compared, Job

SHOWN, SHOWN_EACH = 12, 4  # prompts in the grids, and pictures of each
SHARES = ("judge.", "precision", "recall", "coverage")  # whose interval ends at 0 and at 1


def content(compared: "Compared") -> dict[str, Any]:
    """Everything that `report.html` shows; grids are written into the folder."""
    cfg, world, pictures = compared.cfg, compared.world, compared.pictures
    for (table, name, seed), (job, test) in compared.tested.items():
        compared.tested[table, name, seed] = job, pictures.of(job, test)
    tables = {table: figures(compared, table) for table in ("flops", "images")}
    found = differences(compared)
    reference = compared.batches[REFERENCE]["flops"]
    cost = compared.costs[REFERENCE]
    return {
        **made_with(pick_device(cfg.trainer.device)), "seeds": sorted({seed for *_, seed in compared.tested}),
        "commands": [step.typed for step in compared.commands.asked],
        "world": {
            "name": world.name, "prompts": {split: len(each) for split, each in world.prompts.items()},
            "prompts_file": cfg.compare.prompts_file,
            "images_of_a_prompt": {"development": cfg.compare.development, "test": cfg.compare.test},
        },
        "budget": {"flops": reference * cost.flops, "images": reference * cost.batch},
        "trainings_at_once": cfg.compare.jobs, "chosen_before": cfg.compare.chosen,
        "clip": clip_cost(load_clip_once(cfg.clip.model, cfg.clip.pretrained)),
        "metrics": with_warnings(_judged(compared) | pictures.metrics, tables),
        "left_out": [{"metric": name, "why": why} for name, why in pictures.left_out.items()],
        "unfinished": unfinished(compared),
        "arms": tables["flops"],
        "equal_images": {"arms": tables["images"]}, "differences": found,
        "curves": {name: curve(compared, job) for name, job in _shown(compared).items()},
        "grids": grids(compared), "bars": bars(tables["flops"], found) if world.name == "shapes" else [],
    }  # fmt: skip


def figures(compared: "Compared", table: str) -> dict[str, dict[str, Any]]:
    """Of each variant what it is, and every metric over its seeds and prompts."""
    found = {}
    for variant in compared.variants:
        tests = compared.tests(table, variant.name)
        if tests:
            values = [test["values"] for _, test in tests]
            found[variant.name] = {"about": about_of(compared, variant, tests)}
            for metric in values[0]:
                if (values_SP := stacked(values, metric)).size:
                    found[variant.name][metric] = _within(metric, _figure(bootstrap(values_SP)))
            for metric in tests[0][1]["of_sets"]:
                values_S1 = np.array([[test["of_sets"][metric]] for _, test in tests])
                found[variant.name][metric] = _within(metric, _figure(bootstrap(values_S1)))
            for _, test in tests:
                for metric in test["warnings"].keys() & found[variant.name].keys():
                    found[variant.name][metric].setdefault("warning", test["warnings"][metric])
    return found


def with_warnings(metrics: dict[str, Any], tables: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The metrics, each with a warning where every arm has the same, which then stands there alone."""
    found = {}
    for name, about in metrics.items():
        rows = [arm[name] for table in tables.values() for arm in table.values() if name in arm]
        warnings = {row.get("warning", "") for row in rows}
        if shared := warnings.pop() if len(warnings) == 1 else "":
            for row in rows:
                del row["warning"]
        found[name] = about | {"warning": shared}
    return found


def differences(compared: "Compared") -> list[dict[str, Any]]:
    """The reference minus each other variant, at equal FLOPs, by the seeds that both have."""
    found = []
    ours = {job.seed: test for job, test in compared.tests("flops", REFERENCE)}
    for variant in compared.variants:
        theirs = {job.seed: test for job, test in compared.tests("flops", variant.name)}
        seeds = sorted(set(ours) & set(theirs))
        if variant.name == REFERENCE or not seeds:
            continue
        for metric in ours[seeds[0]]["values"]:
            a_SP, b_SP = (stacked([of[seed]["values"] for seed in seeds], metric) for of in (ours, theirs))
            if a_SP.size:
                about = {"a": REFERENCE, "b": variant.name, "metric": metric}
                about["circular"] = any(metric in of[seeds[0]]["circular"] for of in (ours, theirs))
                found.append(about | _figure(paired_difference(a_SP, b_SP)))
    return found


def unfinished(compared: "Compared") -> list[dict[str, Any]]:
    """The trainings that failed, and the seeds whose turn has not come."""
    begun = {seed for _, seed in compared.unfinished} | {seed for *_, seed in compared.tested}
    waiting = {("every arm", seed): "its turn has not come" for seed in compared.cfg.compare.seeds if seed not in begun}
    found = compared.unfinished | waiting
    return [{"arm": arm, "seed": seed, "why": why} for (arm, seed), why in found.items()]


def about_of(compared: "Compared", variant, tests: list[tuple["Job", dict[str, Any]]]) -> dict[str, Any]:
    """How it was trained and asked, and what that took."""
    job, cost = tests[0][0], compared.costs[variant.name]
    arm = compared.arms[variant.arm]
    stages = [json.loads((compared.folder(job) / arm.cfg.stage / "stage.json").read_text()) for job, _ in tests]
    train = arm.cfg.transformer.train
    t, own = arm.cfg.tokenizer, arm.cfg.compare.arm
    peaks = [stage["peak_memory_mb"] for stage in stages if stage.get("peak_memory_mb")]
    chosen = compared.chosen[variant.name]
    return {
        "conditioned_on": own.conditioned_on, "asked_with": own.asked_with, "captions_share": variant.captions_share,
        "captioned_images": compared.captioned.get(variant.captions_share, 0),
        "tokenizer": f"{t.quantizer}, {t.codebook_size} codes" + (", its own" if arm.own_tokenizer else ""),
        "parameters": cost.size.blocks, "embedding_parameters": cost.size.embedding + sum(cost.size.heads.values()),
        "seeds": [job.seed for job, _ in tests], "steps": job.steps, "lr": train.lr * job.lr_factor,
        "lr_tried": None if chosen.lr_tried is None else list(chosen.lr_tried),
        "muon_lr": train.muon_lr * job.lr_factor if train.optimizer == "muon" else None,
        "chosen": dict(chosen.asked), "trials": chosen.trials,
        "training_flops": job.steps * cost.flops, "images_seen": job.steps * cost.batch,
        "seconds": round(float(np.mean([stage["seconds"] for stage in stages])), 1),
        "peak_memory_mb": max(peaks, default=None),
        "tokens_per_s": round(float(np.mean([test["tokens_per_s"] for _, test in tests])), 1),
        "kept": f"{own.keep} of {own.candidates} by the CLIP" if own.candidates else None,
        "circular": tests[0][1]["circular"], "ceiling": compared.ceiling(arm),
    }  # fmt: skip


def curve(compared: "Compared", job: "Job") -> list[dict[str, float]]:
    """Validation loss over what the training had cost by then."""
    cost = compared.costs[job.variant.name]
    path = compared.folder(job) / compared.arms[job.variant.arm].cfg.stage / "metrics.csv"
    found = []
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row.get("val/loss"):
                batches = int(row["step"]) + 1
                seen = {"flops": batches * cost.flops, "images": batches * cost.batch}
                found.append({**seen, "val_loss": float(row["val/loss"])})
    return found


def grids(compared: "Compared") -> dict[str, Any]:
    """The same prompts and the same seed of every variant, as files below `grids/`."""
    prompts = compared.world.prompts["test"]
    picks = list(range(0, len(prompts), max(1, len(prompts) // SHOWN)))[:SHOWN]
    found, shown = {}, min(compared.cfg.compare.test, SHOWN_EACH)
    for name, job in _shown(compared).items():
        images = compared.asked(job).pictures()
        each = len(images) // len(prompts)
        found[name] = []
        for row, i in enumerate(picks):
            paths = [f"grids/{name}/{row:02d}-{k}.png" for k in range(min(each, shown))]
            for k, path in enumerate(paths):
                save_picture(images[i * each + k], compared.out / path)
            found[name].append(paths)
    return {"prompts": [prompts[i] for i in picks], "seed": compared.cfg.compare.seeds[0], "arms": found}


def _shown(compared: "Compared") -> dict[str, "Job"]:
    """The training of the first seed of each variant that has one."""
    first = compared.cfg.compare.seeds[0]
    jobs = {variant.name: compared.tested.get(("flops", variant.name, first)) for variant in compared.variants}
    return {name: tested[0] for name, tested in jobs.items() if tested}


def _judged(compared: "Compared") -> dict[str, dict[str, Any]]:
    """How the world's own metrics were measured; N is of the prompts that ask for what a metric judges."""
    found = {name: values_P for _, test in compared.tested.values() for name, values_P in test["values"].items()}
    asking = {name: int((~np.isnan(values_P)).sum()) for name, values_P in found.items()}
    each = compared.cfg.compare.test
    return {name: {**compared.world.described(name), "n": n * each} for name, n in asking.items() if n}


def _within(metric: str, figure: dict[str, Any]) -> dict[str, Any]:
    """The interval of few values may reach beyond what a share can be."""
    if not metric.startswith(SHARES):
        return figure
    return figure | {end: min(max(figure[end], 0.0), 1.0) for end in ("low", "high") if figure[end] is not None}


def _figure(estimate) -> dict[str, Any]:
    found = {key: getattr(estimate, key) for key in ("mean", "sem", "low", "high")}
    return {key: None if value is None else round(value, 5) for key, value in found.items()} | {"n": estimate.n}
