"""`clipgen run`: folder of images → generator, stage by stage; what is done is skipped, what changed is redone."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from clipgen.check import check
from clipgen.check.sampling import check_sampling
from clipgen.check.tokenizer import check_perceptual
from clipgen.cli.launch import launch
from clipgen.config import Config
from clipgen.errors import UserError


def main(cfg: Config) -> None:
    from clipgen.config import complete

    began = time.perf_counter()
    cfg = complete(cfg)
    if not cfg.images:
        raise UserError("images is not set; type images=FOLDER, the folder that holds your images")
    check(cfg)

    from clipgen.cli import stages
    from clipgen.cli.assemble import export, transformer_checkpoint
    from clipgen.cli.build import tokenizer_path
    from clipgen.cli.imports import adopt_tokenizer
    from clipgen.cli.latents import clip_in_use, encode_latents
    from clipgen.cli.machine import describe, pick_device
    from clipgen.cli.perceptual import perceptual_inputs
    from clipgen.cli.prep import pack_images, summary
    from clipgen.cli.results import evaluate_once, evaluate_run, tell
    from clipgen.cli.say import say
    from clipgen.cli.score import check_asked
    from clipgen.cli.shared import Shared
    from clipgen.cli.train import job_folder
    from clipgen.clip.texts import reference_texts
    from clipgen.data.atomic import write_json
    from clipgen.evaluation.report import write_report
    from clipgen.pipeline import ClipGen

    use_threads(cfg)
    shared = Shared(cfg, job_folder(cfg))
    if shared.folder:
        check_asked(cfg)
    out = Path(cfg.out)
    device = pick_device(cfg.trainer.device)
    seconds: dict[str, float] = load_seconds(out)

    def timed(stage: str, began: float, done_before: bool = False) -> None:
        if not done_before or stage not in seconds:  # a skipped stage keeps the time it took
            seconds[stage] = time.perf_counter() - began

    say(f"run: {cfg.images} → {out}, on {describe(device)['device']}")
    start = time.perf_counter()
    print_choices(adopt_tokenizer(cfg))
    choose_size(cfg, device.type == "cuda")
    clip_in_use(cfg)  # this and the texts are needed later; what is wrong with them is told now
    reference_texts(cfg.clip.model, cfg.clip.captions)
    if not cfg.tokenizer.ckpt:
        check_perceptual(cfg.tokenizer.train)
        perceptual_inputs(cfg.tokenizer.train)
    check(cfg)
    shared.claim()
    with shared.shards():
        before = stamp(cfg.shards)
        images = pack_images(cfg, replace=changed_prep(cfg))
    shared.claim()  # which the packing has made
    timed("prep", start, before == stamp(cfg.shards))
    say(summary(images, cfg.shards))
    fill_from_shards(cfg, cfg.shards, "images")
    check(cfg)
    check_sampling(cfg.sampling, cfg.bank, cfg.tokenizer.codebook_size)
    save_config(cfg, out)
    write_json(out / "run.json", describe(device))

    if cfg.tokenizer.ckpt:
        seconds.pop("vqgan", None)
        say(f"vqgan: tokenizer.ckpt={cfg.tokenizer.ckpt} is taken as it is")
    else:
        train_on_ranks(cfg, "vqgan")
        with shared.vqgan(images.content) as folder:
            seconds["vqgan"] = stages.train_vqgan(cfg, folder).seconds
    start = time.perf_counter()
    with shared.latents():
        before = stamp(cfg.latents)
        encode_latents(cfg, replace=shared.own["latents"])
    timed("encode", start, before == stamp(cfg.latents))
    train_on_ranks(cfg, "transformer")
    record = stages.train_transformer(cfg, out / "transformer")
    seconds["transformer"] = record.seconds
    start = time.perf_counter()

    def made() -> ClipGen:
        weights = transformer_checkpoint(out / "transformer")
        export(cfg, tokenizer_path(cfg), weights, Path(cfg.latents), out / "model")
        return ClipGen.from_pretrained(out / "model", device)

    stage = out / "transformer"
    metrics = evaluate_once(cfg, made, stage) if shared.folder else evaluate_run(cfg, made(), stage)
    timed("evaluate", start)
    seconds["total"] = sum(value for stage, value in seconds.items() if stage != "total")
    metrics |= {f"seconds.{stage}": round(value, 1) for stage, value in seconds.items()}
    write_json(out / "metrics.json", metrics)
    write_report(out)
    tell(cfg, metrics, out, time.perf_counter() - began)


def train_on_ranks(cfg: Config, stage: str) -> None:
    """Where there are several devices, train a stage in processes of their own; here it is then done already."""
    if cfg.trainer.devices > 1:
        launch(cfg.trainer.devices, ["train", *sys.argv[1:], f"stage={stage}"])


def use_threads(cfg: Config) -> None:
    """A part of the cores for each of the processes that work here together."""
    import os

    import torch

    from clipgen.cli.machine import cores

    here = int(os.environ.get("LOCAL_WORLD_SIZE", cfg.trainer.devices))  # processes on this machine, by torchrun too
    torch.set_num_threads(cfg.trainer.threads or max(1, cores() // here))
    torch.set_float32_matmul_precision("high")
    quiet()


def quiet() -> None:
    """Lightning tells of hardware and tips, and warns of choices that are made on purpose here."""
    import logging
    import warnings

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    logging.getLogger("lightning").setLevel(logging.ERROR)
    for message in (
        "does not have many workers",
        "treespec, LeafSpec",
        "checkpoint directory",
        "Checkpoint directory",
        "log_every_n_steps",
        "across ranks is zero",
        "sync_dist=True",  # every rank validates on everything
    ):
        warnings.filterwarnings("ignore", message=f".*{message}.*")
    warnings.filterwarnings("ignore", message=".*Converting a tensor with requires_grad.*")


def choose_size(cfg: Config, gpu: bool) -> None:
    """Fill `tokenizer.image_size`, and `prep.size` so that whole pictures of it are packed, not crops trained on."""
    from clipgen.defaults import choose_image_size
    from data_prep.sizes import typical_side

    if cfg.tokenizer.image_size is None and cfg.prep.size is None:
        print_choices(choose_image_size(cfg, typical_side(cfg.images, cfg.prep.formats), gpu))
    else:
        choose_image_size(cfg, 0, gpu)
    cfg.prep.size = cfg.prep.size or cfg.tokenizer.image_size


def fill_from_shards(cfg: Config, folder: str, kind: str, groups: Sequence[str] = ()) -> None:
    """Choose what was left open, from the shards at hand and the machine; print each choice, or those of `groups`."""
    choices = choices_from_shards(cfg, folder, kind)
    print_choices([choice for choice in choices if not groups or choice.key.partition(".")[0] in groups])


def choices_from_shards(cfg: Config, folder: str, kind: str) -> list:
    """Fill what was left open, in place, from the shards at hand and the machine."""
    from clipgen.cli.machine import cores, pick_device
    from clipgen.data.manifest import Manifest
    from clipgen.data.size import sides
    from clipgen.defaults import Facts, choose, choose_image_size

    manifest = Manifest.load(folder, kind)
    size = manifest.made_by.get("encode", {}).get("image_size") or manifest.facts.get("shortest_side")
    side = size if size is None else min(sides(size))
    gpu = pick_device(cfg.trainer.device).type == "cuda"
    return [*choose_image_size(cfg, side, gpu), *choose(cfg, Facts(manifest.samples("train"), side, gpu, cores()))]


def print_choices(choices) -> None:
    for choice in choices:
        print(f"  {choice.key}={typed_value(choice.value)}  ({choice.reason})", flush=True)


def typed_value(value) -> str:
    """As it would be typed."""
    return str(list(value)).replace(" ", "") if isinstance(value, list | tuple) else str(value)


def stamp(folder: str) -> int | None:
    """When the manifest of a folder was written: it changes with whatever is made there."""
    path = Path(folder) / "manifest.json"
    return path.stat().st_mtime_ns if path.is_file() else None


def changed_prep(cfg: Config) -> bool:
    """A run owns its shards, and makes them again when settings change; shards from elsewhere it never touches."""
    return Path(cfg.shards).resolve().is_relative_to(Path(cfg.out).resolve())


def save_config(cfg: Config, out: Path) -> None:
    from omegaconf import OmegaConf

    from clipgen.data.atomic import replacing

    with replacing(out / "config.yaml") as path:
        path.write_text(OmegaConf.to_yaml(cfg, resolve=True), encoding="utf-8")


def load_seconds(out: Path) -> dict[str, float]:
    import json

    try:
        metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {key.removeprefix("seconds."): value for key, value in metrics.items() if key.startswith("seconds.")}
