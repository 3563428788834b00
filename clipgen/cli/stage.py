"""What every stage does around its own: begins or goes on with its folder, trains to the end, marks it as done."""

import re
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from PIL import Image

from clipgen.callbacks.ema import EMA
from clipgen.callbacks.finite import Finite
from clipgen.checkpoint import read_checkpoint, weights_sha256
from clipgen.cli.build import make_trainer
from clipgen.cli.machine import loader_workers, peak_memory_mb, pick_device, pick_precision
from clipgen.cli.record import Record, begin, is_kept
from clipgen.cli.say import say
from clipgen.config import Config, Sampling, asdict_of
from clipgen.data.atomic import PREVIOUS
from clipgen.data.lock import Claim
from clipgen.data.module import CaptionedLatentData
from clipgen.errors import UserError
from clipgen.ranks import from_rank_zero, rank, same_on_ranks, world_size
from clipgen.tokenizer.codes import clusters
from clipgen.tokenizer.vqgan import VQGAN
from clipgen.transformer.execution import compile_in_place

PREVIEWS = 8  # pictures in a grid
OF_PREVIEWS = "guidance_scale", "guidance_schedule", "temperature", "top_k", "top_p", "min_p", "prefix_boost"


def refuse_own(start: str, folder: Path, key: str) -> None:
    """Training into the folder that holds its own start would set that aside, or delete it."""
    own = folder.resolve(), folder.with_name(folder.name + PREVIOUS).resolve()
    if Path(start).resolve().parent in own:
        raise UserError(
            f"{key}={start} lies in the folder that this training writes into; copy it elsewhere, or train under "
            "another name= (with shards= of this one)"
        )


def start(folder: Path, stage: str, settings: dict[str, Any], inputs: dict[str, Any]) -> Record:
    claims: list[Claim] = []
    kept = is_kept(folder)

    def begun() -> tuple[Record, list[str]]:
        if folder.is_dir():
            claims.append(Claim(folder))  # before it may be set aside
        found = begin(folder, stage, settings, inputs)
        if found[1] or not claims:
            claims.append(Claim(folder))
        return found

    record, changes = from_rank_zero(begun)
    record.claims = claims
    goes_on = (folder / "last.ckpt").exists()
    if changes:
        named = re.compile(r"^inputs\.(images|latents|clip|perceptual_weights)\b.*")
        why = ", ".join(named.sub(r"the \1 changed", change) for change in changes)
        old = f" (the old one is in {folder}{PREVIOUS})" if kept else ""
        say(f"{stage}: {'takes up again what was aside' if goes_on else 'begins anew'}, since {why}{old}")
    if record.done and not any(folder.glob("*.ckpt")):
        say(f"{stage}: was done, but its checkpoint is gone from {folder}; it is trained again")
        record.status, record.seconds = "running", 0.0
    if record.done:
        record.release()
        say(f"{stage}: done already ({record.seconds:.0f} s), skipped")
    elif goes_on:
        say(f"{stage}: continues from {folder / 'last.ckpt'}")
    return record


def batches(cfg: Config) -> tuple[int | None, ...]:
    """What a data module is told of the batches of a model of tokens, in its order."""
    train = cfg.transformer.train
    return train.batch_size, train.steps, cfg.seed, loader_workers(cfg.trainer), cfg.trainer.val_samples


def fit(
    cfg: Config,
    record: Record,
    module: pl.LightningModule,
    data: pl.LightningDataModule,
    batch_size: int,
    draw: Callable[[], Image.Image] | None,
    finish: Callable[[], None] | None = None,
    callbacks: Sequence[pl.Callback] = (),
    shared_out: bool = False,
) -> None:
    """Train to the end, or from the last checkpoint to the end, `finish`, and mark the stage as done."""
    last = record.folder / "last.ckpt"
    checkpoint = read_checkpoint(last, record.stage)["clipgen"] if last.exists() else {"batches": 0}
    by_loss = record.stage in ("transformer", "paired", "caption", "super")  # of the others the last is used
    monitor = "val/loss" if data.n_val and by_loss else None
    if not data.n_val:
        why = "trainer.val_samples=0" if cfg.trainer.val_samples == 0 else f"{data.folder} has no validation split"
        say(f"{record.stage}: nothing is validated, as {why}")
    if data.left_out:
        say(
            f"{record.stage}: of {data.n_train:,} images {data.left_out:,} sit out each epoch, other ones every time, "
            f"as they do not fill a batch of {batch_size:,}"
        )
    done = checkpoint["batches"]
    precision, strategy = pick_precision(cfg.trainer), "fsdp" if shared_out else "ddp"
    if done:
        goes_on(record, precision, strategy)
    record.beside = {"precision": precision, "strategy": strategy, "sampling": asdict_of(cfg.sampling)}
    if rank() == 0:
        record.save()
    trainer = make_trainer(
        cfg.trainer,
        precision,
        record.folder,
        module.steps,
        done,
        batch_size,
        monitor,
        draw,
        callbacks,
        shared_out,
        validates=data.n_val > 0,
    )
    began = time.perf_counter()
    try:
        trainer.fit(module, datamodule=data, ckpt_path=last if last.exists() else None, weights_only=True)
        if world_size() > 1 and not shared_out:
            assert same_on_ranks(weights_sha256(module.state_dict())), "the ranks have trained different weights"
        trainer.save_checkpoint(last, weights_only=False)
        if finish and rank() == 0:
            finish()
        record.status = "done"
    finally:
        record.seconds += time.perf_counter() - began
        record.peak_memory_mb = max(record.peak_memory_mb or 0.0, peak_memory_mb(pick_device(cfg.trainer.device)))
        if rank() == 0:
            record.save()
        record.release()


def goes_on(record: Record, precision: str, strategy: str) -> None:
    """Say where a training goes on in another precision. UserError where its weights were shared out otherwise.

    With FSDP, Lightning keeps the state of optimizers by other names, and would mix it up.
    """
    was = record.beside
    if (began := was.get("strategy", strategy)) != strategy:
        raise UserError(
            f"{record.folder} was begun with trainer.strategy={began} and cannot go on with {strategy}; take "
            f"trainer.strategy={began}, or train under another name="
        )
    if (began := was.get("precision", precision)) != precision:
        say(f"{record.stage}: goes on in {precision}, where it began in {began} (trainer.precision={began} keeps that)")


def fit_tokens(
    cfg: Config,
    record: Record,
    module: pl.LightningModule,
    data: pl.LightningDataModule,
    samples: Callable[[], Image.Image] | None,
) -> None:
    """`fit` a model of tokens; its averaged weights, where they are kept, draw the `samples`."""
    training = cfg.transformer.train
    if cfg.trainer.compile:
        compile_in_place(module.transformer)
    ema = EMA("transformer", training.ema) if training.ema else None
    rates = "transformer.train.lr" + (" and muon_lr" if training.optimizer == "muon" else "")
    finite = Finite(record.folder, rates)

    def draw() -> Image.Image:
        with ema.weights() if ema else nullcontext():
            return samples()

    fsdp = cfg.trainer.strategy == "fsdp"  # then no rank has the weights to draw with
    fit(
        cfg, record, module, data, training.batch_size, None if fsdp or samples is None else draw,
        callbacks=[finite, ema] if ema else [finite], shared_out=fsdp,
    )  # fmt: skip


def preview_options(sampling: Sampling, vqgan: VQGAN) -> dict[str, Any]:
    """The settings of pictures drawn while training, as `generate` takes them."""
    n = sampling.clusters
    options = {key: value for key, value in asdict_of(sampling).items() if key in OF_PREVIEWS}
    return options | {"cluster_V": clusters(vqgan.quantizer.codes_KD, n) if n else None}


def say_used(stage: str, data: CaptionedLatentData, share: float) -> None:
    """How many images are trained on, where captions are missing or may not be used."""
    if data.n_train == data.samples:
        return
    among = "" if share == 1 else f", of which {data.in_share:,} are in captions_share={share:g}"
    say(
        f"{stage}: of {data.samples:,} images{among}, {data.n_train:,} have captions and are trained on; the others "
        "are left out"
    )
