"""Trainings: what devices share, and the warm-up."""

import os

from clipgen.config import ClipTraining, Config, TransformerTraining, VQGANTraining
from clipgen.errors import UserError


def devices(cfg: Config) -> int:
    """How many train together: those of the config, or the processes that there are already."""
    return max(cfg.trainer.devices, int(os.environ.get("WORLD_SIZE", 1)))


def check_strategy(cfg: Config) -> None:
    """UserError for what does not go with weights that are shared out."""
    if cfg.trainer.strategy != "fsdp":
        return
    for wrong, name, mend in (
        (devices(cfg) == 1, "shares weights out over several devices", "trainer.devices=2 or more, or strategy=ddp"),
        (cfg.trainer.compile, "does not compile", "trainer.compile=false"),
        (cfg.transformer.train.ema, "averages no weights", "transformer.train.ema=0"),
        (cfg.trainer.precision == "16-mixed", "scales no losses", "trainer.precision=bf16-mixed or 32-true"),
    ):
        if wrong:
            raise UserError(f"trainer.strategy=fsdp {name}; take {mend}")


def check_halves(cfg: Config) -> None:
    """UserError for float16 with two optimizers: a batch that overflows would be left out by one of them alone."""
    two = cfg.stage not in ("vqgan", "clip") and cfg.transformer.train.optimizer == "muon"
    if two and cfg.trainer.precision == "16-mixed":
        raise UserError(
            "trainer.precision=16-mixed does not go with the two optimizers of transformer.train.optimizer=muon; take "
            "optimizer=adamw, or trainer.precision=bf16-mixed or 32-true"
        )


def check_batches(cfg: Config) -> None:
    """UserError for batches that the devices cannot share, and for a warm-up that never ends."""
    t, m, n = cfg.tokenizer.train, cfg.transformer.train, devices(cfg)
    _check_batch("tokenizer", t, n)
    _check_batch_norm(t, n)
    _check_batch("transformer", m, n)
    if cfg.stage == "clip":
        _check_batch("clip", cfg.clip.train, n)
    _check_warmup("tokenizer", t)
    _check_warmup("transformer", m)


def _check_batch(part: str, train: VQGANTraining | TransformerTraining | ClipTraining, devices: int) -> None:
    parts = getattr(train, "accumulate", None)  # a CLIP has none: it tells the pictures of a whole batch apart
    least = devices * (parts or 1)
    if train.batch_size is not None and train.batch_size % least:
        of_each = f" in {part}.train.accumulate={parts} parts" if parts else ""
        raise UserError(
            f"{part}.train.batch_size={train.batch_size} cannot be shared by trainer.devices={devices}{of_each}; take "
            f"a multiple of {least}"
        )


def _check_batch_norm(train: VQGANTraining, devices: int) -> None:
    if train.gan_norm == "batch" and train.gan_weight != 0 and train.batch_size == devices * train.accumulate:
        raise UserError(
            "tokenizer.train.gan_norm=batch with one picture at a time has nothing to normalise over; take gan_norm="
            "group, or a larger tokenizer.train.batch_size"
        )


def _check_warmup(part: str, train: VQGANTraining | TransformerTraining) -> None:
    if train.steps is not None and train.warmup >= max(2, train.steps):
        raise UserError(
            f"{part}.train.warmup={train.warmup} leaves none of {part}.train.steps={train.steps} to the full rate; "
            f"take {part}.train.warmup={train.steps // 10}"
        )
