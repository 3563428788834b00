"""The range of each number of a config, and the choices of each name."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from clipgen.config import Config
from clipgen.errors import UserError

LEAST = {
    "prep.workers": 1,
    "tokenizer.downsample": 1, "tokenizer.codebook_size": 2,
    "tokenizer.code_dim": 1, "tokenizer.channels": 32, "tokenizer.res_blocks": 1, "tokenizer.z_channels": 1,
    "tokenizer.norm_groups": 1, "tokenizer.patch": 1,
    "tokenizer.train.steps": 1, "tokenizer.train.batch_size": 1, "tokenizer.train.usage_window": 1,
    "tokenizer.train.gan_layers": 1, "tokenizer.train.gan_channels": 1, "tokenizer.train.gan_weight": 0,
    "tokenizer.train.lecam": 0, "tokenizer.train.clip_norm": 0, "tokenizer.train.perceptual_weight": 0,
    "tokenizer.train.gan_warmup": 0, "tokenizer.commitment": 0, "tokenizer.kl_weight": 0,
    "transformer.train.clip_norm": 0, "transformer.train.accumulate": 1, "transformer.train.z_loss": 0,
    "transformer.train.aux_weight": 0, "transformer.train.recon.weight": 0, "transformer.train.recon.every": 1,
    "tokenizer.train.accumulate": 1, "tokenizer.train.gan_start": 0, "tokenizer.train.perturb_neighbours": 1,
    "transformer.width": 1, "transformer.depth": 1, "transformer.heads": 1, "transformer.n_prefix": 1,
    "transformer.train.steps": 1, "transformer.train.batch_size": 1, "clip.train.steps": 1, "clip.train.batch_size": 1,
    "encode.batch_size": 1, "encode.workers": 1, "trainer.val_every": 1,
    "tokenizer.train.warmup": 0, "transformer.train.warmup": 0,
    "trainer.grid_every": 1, "trainer.val_samples": 0, "trainer.num_workers": 0, "trainer.devices": 1,
    "paired.vocab_size": 2, "paired.text_length": 1, "paired.txt_loss_scale": 0, "paired.window": 0, "paired.pivots": 0,
    "executor.tasks": 1, "executor.cpus": 1, "executor.gpus": 0, "executor.minutes": 1,
    "trainer.threads": 1, "clip.train.warmup": 0, "clip.train.weight_decay": 0, "transformer.train.weight_decay": 0,
}  # fmt: skip
FRACTIONS = (
    "tokenizer.dropout", "tokenizer.decay", "tokenizer.train.lr_final", "tokenizer.train.perturb_share",
    "tokenizer.train.perturb_prob", "tokenizer.train.ema",
    "transformer.dropout", "transformer.cond_drop_prob",
    "transformer.train.min_level", "transformer.train.label_smoothing", "transformer.train.ema",
    "transformer.train.lr_final", "transformer.train.recon.share", "paired.shrink_gradient",
)  # fmt: skip
CHOICES = {
    "encode.crops": (1, 2, 10), "encode.precision": ("auto", "fp32", "bf16"),
    "tokenizer.network": ("resnet", "plain"),
    "tokenizer.quantizer": ("nearest", "moving_average", "simvq", "gumbel", "fsq"),
    "tokenizer.train.pixel_loss": ("l1", "l2"), "tokenizer.train.gan_norm": ("group", "batch"),
    "tokenizer.train.perceptual": ("clip", "lpips", "squeezenet", "none"),
    "trainer.precision": ("auto", "32-true", "bf16-mixed", "16-mixed"),
    "task": ("image", "caption"), "trainer.strategy": ("ddp", "fsdp"), "transformer.style": ("modern", "gpt2"),
    "transformer.condition": ("image", "text"),
    "transformer.train.optimizer": ("muon", "adamw"), "transformer.train.schedule": ("linear", "cosine"),
    "transformer.train.recon.estimator": ("straight_through", "gumbel"),
}  # fmt: skip
LOGGERS = ("csv", "tensorboard", "wandb")


def value_of(cfg: Any, key: str) -> Any:
    for name in key.split("."):
        cfg = getattr(cfg, name)
    return cfg


def check_ranges(cfg: Config) -> None:
    """UserError for a value that is out of its range, whatever the others are."""
    for key, least in LEAST.items():
        if (value := value_of(cfg, key)) is not None and value < least:
            raise UserError(f"{key}={value}; take at least {least}")
    for key in FRACTIONS:
        if (value := value_of(cfg, key)) is not None and not 0.0 <= value <= 1.0:
            raise UserError(f"{key}={value} is out of range; take a value from 0 to 1")
    for key, choices in CHOICES.items():
        if (value := value_of(cfg, key)) not in choices:
            raise unknown(key, value, choices)
    for name in cfg.trainer.loggers:
        if name not in LOGGERS:
            raise unknown("trainer.loggers", name, LOGGERS)
        if name == "wandb" and find_spec(name) is None:
            raise UserError("trainer.loggers has wandb, which is not installed; pip install 'clipgen[wandb]'")


def unknown(key: str, value: Any, choices: Sequence[Any]) -> UserError:
    return UserError(f"{key}={value} is unknown; take {', '.join(map(str, choices[:-1]))} or {choices[-1]}")


def check_size(key: str, size: Any, least: int) -> None:
    pair = isinstance(size, Sequence) and not isinstance(size, str) and len(size) == 2
    if size is not None and not all(isinstance(side, int) and side >= least for side in (size if pair else [size])):
        raise UserError(f"{key}={size}; take a number of pixels, at least {least}, or [height,width]")
