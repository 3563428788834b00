"""Invariants of a config that no type can hold; a UserError names the keys and the mend."""

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clipgen.config import (
    WORLDS,
    Clip,
    Config,
    Paired,
    Sampling,
    Tokenizer,
    TransformerModel,
    TransformerTraining,
    VQGANTraining,
)
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
    "task": ("image", "caption"), "trainer.strategy": ("ddp", "fsdp"), "transformer.style": ("modern", "gpt2"),
    "transformer.condition": ("image", "text"),
    "transformer.train.optimizer": ("muon", "adamw"), "transformer.train.schedule": ("linear", "cosine"),
    "transformer.train.recon.estimator": ("straight_through", "gumbel"),
}  # fmt: skip


OF_TOKENS = ("paired", "super")  # stages whose Transformer is not asked by an embedding
SAMPLING_UP_TO = {
    "fidelity": 1, "top_p": 1, "min_p": 1, "temperature": 100, "guidance_scale": 100, "prefix_boost": 100,
}  # fmt: skip
SAMPLING_CHOICES = {"guidance_schedule": ("constant", "power_cosine"), "precision": ("fp32", "bf16")}
SAMPLING_LEAST = {"top_k": 0, "clusters": 0, "batch_size": 1}

DRAWN = ("nearest", "moving_average")  # whose codes are drawn from the encoder's outputs
OF_QUANTIZERS = {  # which have a setting, and the value that asks for nothing
    "tokenizer.unit_codes": (DRAWN, False), "tokenizer.legacy": (("nearest",), False),
    "tokenizer.decay": (("moving_average",), None), "tokenizer.kl_weight": (("gumbel",), None),
    "tokenizer.levels": (("fsq",), None),
    "tokenizer.train.restart_dead": (DRAWN, False), "tokenizer.train.continuous_steps": (DRAWN, 0),
    "tokenizer.train.gumbel_temperature": (("gumbel",), None),
}  # fmt: skip
PERCEPTUAL_FILES = {
    "lpips": "torchvision's vgg16 (.pth), a taming checkpoint that has LPIPS in it, or LPIPS's own weights",
    "squeezenet": "the features.* of SqueezeNet 1.1 for Caffe's input (.npz, .pth or .safetensors)",
}


def _value(cfg: Any, key: str) -> Any:
    for name in key.split("."):
        cfg = getattr(cfg, name)
    return cfg


def check(cfg: Config) -> None:
    """Invariants across groups that no type can hold; a UserError names the keys and the mend."""
    for key, least in LEAST.items():
        if (value := _value(cfg, key)) is not None and value < least:
            raise UserError(f"{key}={value}; take at least {least}")
    for key in FRACTIONS:
        if (value := _value(cfg, key)) is not None and not 0.0 <= value <= 1.0:
            raise UserError(f"{key}={value} is out of range; take a value from 0 to 1")
    for key, choices in CHOICES.items():
        if (value := _value(cfg, key)) not in choices:
            raise UserError(f"{key}={value} is unknown; take {', '.join(map(str, choices[:-1]))} or {choices[-1]}")
    _check_paired(cfg)
    check_sampling(cfg.sampling, cfg.bank)
    t, m = cfg.tokenizer, cfg.transformer
    _check_size("prep.size", cfg.prep.size, 1)
    _check_size("tokenizer.image_size", t.image_size, 8)
    _check_image_size(t)
    patch = t.patch or 1
    if t.downsample and t.downsample % patch:
        raise UserError(f"tokenizer.patch={patch} does not divide tokenizer.downsample={t.downsample}; take 1 or 2")
    made = patch * 2 ** (len(t.channel_multipliers) - 1) if t.channel_multipliers else t.downsample
    if t.downsample and made != t.downsample:
        raise UserError(
            f"tokenizer.channel_multipliers={list(t.channel_multipliers)} with tokenizer.patch={patch} downsample by "
            f"{made}, but tokenizer.downsample={t.downsample}; give "
            f"{(t.downsample // patch).bit_length()} multipliers for {t.downsample}"
        )
    if t.codebook_size and t.codebook_size > 65_536:
        raise UserError(f"tokenizer.codebook_size={t.codebook_size}; tokens are stored as uint16, take 2 to 65536")
    if t.channels and t.channels % 32:
        raise UserError(f"tokenizer.channels={t.channels}; taming's blocks are made for multiples of 32")
    if t.channels and t.norm_groups and t.channels % t.norm_groups:
        raise UserError(
            f"tokenizer.norm_groups={t.norm_groups} does not divide tokenizer.channels={t.channels}; take 4, 8 or 32"
        )
    _check_quantizer(t)
    _check_training(t)
    devices = max(cfg.trainer.devices, int(os.environ.get("WORLD_SIZE", 1)))
    _check_transformer(m, cfg.stage)
    if cfg.stage not in OF_TOKENS:
        _check_level(cfg)
    _check_strategy(cfg, devices)
    if m.gft and (cfg.sampling.guidance_schedule != "constant" or cfg.sampling.guidance_scale < 1):
        raise UserError(
            f"transformer.gft=true is told one scale of 1 or more for all tokens, but sampling.guidance_scale="
            f"{cfg.sampling.guidance_scale:g} and sampling.guidance_schedule={cfg.sampling.guidance_schedule}; take "
            "sampling.guidance_schedule=constant and a scale of at least 1"
        )
    if not m.cond_drop_prob and cfg.sampling.guidance_scale != 1:
        raise UserError(
            f"sampling.guidance_scale={cfg.sampling.guidance_scale:g} needs a model that knows no condition, but "
            f"transformer.cond_drop_prob=0; take sampling.guidance_scale=1, or transformer.cond_drop_prob=0.1"
        )
    _check_batch("tokenizer", t.train, devices)
    _check_batch_norm(t.train, devices)
    _check_batch("transformer", m.train, devices)
    _check_warmup("tokenizer", t.train)
    _check_warmup("transformer", m.train)
    if (scale := cfg.clip.train.logit_scale) is not None and not 0 < scale <= 100:
        raise UserError(f"clip.train.logit_scale={scale:g}; take a number above 0 and up to 100, or null to learn it")
    check_world(cfg.world)
    if cfg.world and not isinstance(t.image_size, int | None):
        raise UserError(f"world={cfg.world} draws squares, but tokenizer.image_size={t.image_size}; take one number")
    if m.width and m.heads and (m.width % m.heads or (m.width // m.heads) % 4):
        raise UserError(
            f"transformer.width={m.width} over transformer.heads={m.heads} gives no head size that is a multiple of 4; "
            f"take heads={max(1, m.width // 64)}"
        )


def check_clip(clip: Clip) -> None:
    """UserError where a CLIP that does not ship is not made yet, with the commands that make it."""
    if not clip.made_by or not clip.model.startswith("local-dir:"):
        return
    if not (Path(clip.model.removeprefix("local-dir:")) / "open_clip_config.json").is_file():
        raise UserError(f"clip.model={clip.model} is not made yet; type first: {clip.made_by}")


def _check_paired(cfg: Config) -> None:
    """What reads captions; a UserError also for what stage=paired has no use for."""
    m, p = cfg.transformer, cfg.paired
    if not 0 < cfg.captions_share <= 1:
        raise UserError(f"captions_share={cfg.captions_share:g}; take more than 0 and at most 1, which is all captions")
    if p.img_loss_scale <= 0:
        raise UserError(f"paired.img_loss_scale={p.img_loss_scale:g} trains on no image; take more than 0")
    if p.vocab_size > 50_000:
        raise UserError(f"paired.vocab_size={p.vocab_size}; take at most 50000, as CogView")
    if p.pivots and not p.window:
        raise UserError(
            f"paired.pivots={p.pivots} has no effect with paired.window=0, which sees all tokens; give a paired.window"
        )
    if m.condition == "text" and m.train.recon.weight:
        raise UserError(
            "transformer.train.recon compares pictures, but transformer.condition=text knows their captions; take "
            "transformer.train.recon.weight=0"
        )
    check_task(cfg)
    if cfg.stage not in OF_TOKENS:
        return
    if cfg.task == "caption" and p.window:
        raise UserError(
            f"paired.window={p.window} has no effect with task=caption, as a captioner sees all of its image; take "
            "paired.window=0 paired.pivots=0"
        )
    if cfg.task == "caption" and (p.txt_loss_scale, p.img_loss_scale) != (1, 1):
        raise UserError(
            f"paired.txt_loss_scale={p.txt_loss_scale:g} and paired.img_loss_scale={p.img_loss_scale:g} have no effect "
            "with task=caption, which learns the text alone; leave them out"
        )
    for key, asked in (
        ("gft", m.gft), ("train.rar", m.train.rar), ("train.aux_weight", m.train.aux_weight),
        ("train.recon.weight", m.train.recon.weight),
    ):  # fmt: skip
        if asked:
            raise UserError(f"transformer.{key}={asked} has no effect on stage={cfg.stage}; leave it out")


def check_task(cfg: Config) -> None:
    """UserError for another task than images where stage=paired is not what is trained."""
    if cfg.stage != "paired" and cfg.task != "image":
        stage = "" if cfg.stage is None else f", and this is stage={cfg.stage}"
        raise UserError(f"task={cfg.task} is one of `clipgen train stage=paired`{stage}; leave it out")


def check_sampling(sampling: Sampling, bank: int, codebook_size: int | None = None) -> None:
    """The defaults that a model is stored with; a UserError names the key and the mend.

    `codebook_size` is that of the tokens, where it is known already.
    """
    from clipgen.transformer.bridges import parse  # torch is loaded with it
    from clipgen.transformer.sampling import check_clusters

    for name, most in SAMPLING_UP_TO.items():
        if not 0 <= (value := getattr(sampling, name)) <= most:
            raise UserError(f"sampling.{name}={value:g} is out of range; take a value from 0 to {most}")
    for name, choices in SAMPLING_CHOICES.items():
        if (value := getattr(sampling, name)) not in choices:
            raise UserError(f"sampling.{name}={value} is unknown; take {' or '.join(choices)}")
    for name, least in SAMPLING_LEAST.items():
        if (value := getattr(sampling, name)) < least:
            raise UserError(f"sampling.{name}={value}; take at least {least}")
    if codebook_size is not None and sampling.top_k > codebook_size:
        raise UserError(
            f"sampling.top_k={sampling.top_k} is more than the {codebook_size} codes of the tokenizer; take "
            f"sampling.top_k=0, which is all of them, or {codebook_size} at most"
        )
    check_clusters(sampling.clusters, sampling.top_k, codebook_size, "sampling.")
    check_bank(bank)
    if parse(sampling.bridge)[1] and not bank:
        raise UserError(f"sampling.bridge={sampling.bridge} needs a bank of image embeddings; take bank=10000")


def check_window(paired: Paired, tokens: int) -> None:
    """UserError where an image of so many tokens has none that is out of sight."""
    if paired.window and paired.window + paired.pivots >= tokens:
        raise UserError(
            f"paired.window={paired.window} and paired.pivots={paired.pivots} are all {tokens} tokens of an image; "
            "take fewer, or paired.window=0 paired.pivots=0, which sees all of them in less time"
        )


def check_bank(bank: int) -> None:
    """UserError for a negative number of embeddings."""
    if bank < 0:
        raise UserError(f"bank={bank}; take at least 0")


def _check_size(key: str, size: Any, least: int) -> None:
    pair = isinstance(size, Sequence) and not isinstance(size, str) and len(size) == 2
    if size is not None and not all(isinstance(side, int) and side >= least for side in (size if pair else [size])):
        raise UserError(f"{key}={size}; take a number of pixels, at least {least}, or [height,width]")


def _check_image_size(t: Tokenizer) -> None:
    square = isinstance(t.image_size, int)
    size = [] if t.image_size is None else [t.image_size] if square else t.image_size
    if t.downsample and any(side % t.downsample for side in size):
        near = [side // t.downsample * t.downsample or t.downsample for side in size]
        raise UserError(
            f"tokenizer.image_size={t.image_size} is not divisible by tokenizer.downsample={t.downsample}; "
            f"take {near[0] if square else near}"
        )


def _check_quantizer(t: Tokenizer) -> None:
    if t.quantizer == "fsq":
        codes = math.prod(t.levels)
        if not t.levels or min(t.levels) < 3:
            raise UserError(f"tokenizer.levels={list(t.levels)}; fsq takes 3 or more levels a dimension, as [8,5,5,5]")
        if t.codebook_size not in (None, codes):
            raise UserError(
                f"tokenizer.levels={list(t.levels)} are {codes} codes, but tokenizer.codebook_size={t.codebook_size}; "
                f"take codebook_size={codes}"
            )
    if not t.ckpt:  # whose network counts, whatever is set here
        _check_of_quantizer(t)
    temperatures = t.train.gumbel_temperature
    if len(temperatures) != 2 or min(temperatures) <= 0:
        raise UserError(
            f"tokenizer.train.gumbel_temperature={list(temperatures)}; take the first and the last, above 0, as "
            "[0.9,0.0625]"
        )
    if t.train.checkpointing and t.network == "plain":
        raise UserError(
            "tokenizer.train.checkpointing=true has no effect with tokenizer.network=plain, which has no blocks to "
            "compute again; take checkpointing=false"
        )
    if t.train.perturb_share and t.quantizer in ("gumbel", "fsq"):
        raise UserError(
            f"tokenizer.train.perturb_share={t.train.perturb_share} needs codes that have neighbours, which "
            f"tokenizer.quantizer={t.quantizer} has not; take perturb_share=0, or quantizer=nearest"
        )


def _check_of_quantizer(t: Tokenizer) -> None:
    """What a preset or a default says for other quantizers may stay; what asks for something must have it."""
    for key, (kinds, nothing) in OF_QUANTIZERS.items():
        name = key.removeprefix("tokenizer.")
        value, default = _value(t, name), _value(Tokenizer(), name)
        if t.quantizer not in kinds and value not in (default, nothing):
            shown = list(value) if isinstance(value, Sequence) else value
            raise UserError(
                f"{key}={shown} has no effect with tokenizer.quantizer={t.quantizer}; take "
                f"{name.rpartition('.')[2]}={default if nothing is None else nothing}, or quantizer={kinds[0]}"
            )


def _check_training(t: Tokenizer) -> None:
    train, key = t.train, "tokenizer.train."
    for name in ("lr", "gan_lr"):
        if (value := getattr(train, name)) is not None and value <= 0:
            raise UserError(f"{key}{name}={value}; take more than 0")
    if len(train.betas) != 2 or not all(0 <= beta < 1 for beta in train.betas):
        raise UserError(f"{key}betas={list(train.betas)}; take two numbers from 0 to below 1, as [0.9,0.95]")
    first, steps = train.continuous_steps, train.steps
    if first is not None and steps is not None and not 0 <= first < steps:
        raise UserError(
            f"{key}continuous_steps={first} leaves no batch of {key}steps={steps} to the codebook; take "
            f"continuous_steps={steps // 10}"
        )
    if t.channel_multipliers is not None and not t.channel_multipliers:
        raise UserError("tokenizer.channel_multipliers=[]; give one for each resolution, as [1,2,2]")


def _check_transformer(m: TransformerModel, stage: str | None) -> None:
    train, key = m.train, "transformer."
    if m.style == "gpt2" and stage not in OF_TOKENS:
        for name, value, mend in (
            ("n_prefix", m.n_prefix != 1, "1"),
            ("train.rar", train.rar, "false, as its tokens do not say where they stand"),
            ("gft", m.gft, "false, as there is no token to tell beta"),
            ("train.min_level", train.min_level != 1, "1, as there is no token to tell the level"),
        ):
            if value:
                raise UserError(f"{key}{name} does not fit {key}style=gpt2; take {mend}, or style=modern")
    if m.gft and not m.level_token:
        raise UserError(f"{key}gft=true tells beta by the level's token; take {key}level_token=true")
    if m.gft and not m.cond_drop_prob:
        raise UserError(f"{key}gft=true needs images without a condition; take {key}cond_drop_prob=0.1")
    if train.keep_random and not train.rar:
        raise UserError(f"{key}train.keep_random=true has no random order to keep; take {key}train.rar=true")
    if len(train.rar_anneal) != 2 or not 0 <= train.rar_anneal[0] <= train.rar_anneal[1] <= 1:
        raise UserError(f"{key}train.rar_anneal={list(train.rar_anneal)}; take two rising shares, as [0.5,0.75]")
    for name in ("lr", "muon_lr"):
        if (value := getattr(train, name)) is not None and value <= 0:
            raise UserError(f"{key}train.{name}={value}; take more than 0")


def _check_level(cfg: Config) -> None:
    m, fidelity = cfg.transformer, cfg.sampling.fidelity
    if m.style == "modern" and m.level_token and fidelity < m.train.min_level:
        raise UserError(
            f"sampling.fidelity={fidelity:g} is a level that transformer.train.min_level={m.train.min_level:g} never "
            f"shows the model; take sampling.fidelity={m.train.min_level:g} or more, or a smaller min_level"
        )


def _check_strategy(cfg: Config, devices: int) -> None:
    if cfg.trainer.strategy != "fsdp":
        return
    for wrong, name, mend in (
        (devices == 1, "shares weights out over several devices", "trainer.devices=2 or more, or strategy=ddp"),
        (cfg.trainer.compile, "does not compile", "trainer.compile=false"),
        (cfg.transformer.train.ema, "averages no weights", "transformer.train.ema=0"),
        (cfg.trainer.precision == "16-mixed", "scales no losses", "trainer.precision=bf16-mixed or 32-true"),
    ):
        if wrong:
            raise UserError(f"trainer.strategy=fsdp {name}; take {mend}")


def _check_batch(part: str, train: VQGANTraining | TransformerTraining, devices: int) -> None:
    if train.batch_size is not None and train.batch_size % (devices * train.accumulate):
        raise UserError(
            f"{part}.train.batch_size={train.batch_size} cannot be shared by trainer.devices={devices} in "
            f"{part}.train.accumulate={train.accumulate} parts; take a multiple of {devices * train.accumulate}"
        )


def _check_warmup(part: str, train: VQGANTraining | TransformerTraining) -> None:
    if train.steps is not None and train.warmup >= max(2, train.steps):
        raise UserError(
            f"{part}.train.warmup={train.warmup} leaves none of {part}.train.steps={train.steps} to the full rate; "
            f"take {part}.train.warmup={train.steps // 10}"
        )


def _check_batch_norm(train: VQGANTraining, devices: int) -> None:
    if train.gan_norm == "batch" and train.gan_weight != 0 and train.batch_size == devices * train.accumulate:
        raise UserError(
            "tokenizer.train.gan_norm=batch with one picture at a time has nothing to normalise over; take gan_norm="
            "group, or a larger tokenizer.train.batch_size"
        )


def check_perceptual(cfg: VQGANTraining) -> None:
    """The files that the perceptual loss of stage 1 needs are named."""
    key, sha256 = "tokenizer.train.perceptual", cfg.perceptual_sha256
    if cfg.perceptual in PERCEPTUAL_FILES and not cfg.perceptual_weights:
        raise UserError(
            f"{key}={cfg.perceptual} needs {key}_weights=FILE: {PERCEPTUAL_FILES[cfg.perceptual]}; nothing is "
            f"downloaded, and {key}=clip needs no file"
        )
    for name in ("weights", "sha256"):
        if cfg.perceptual not in PERCEPTUAL_FILES and (value := getattr(cfg, f"perceptual_{name}")):
            raise UserError(
                f"{key}_{name}={value} is for {key}=lpips or squeezenet, but {key}={cfg.perceptual}; leave out one"
            )
    if sha256 and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise UserError(f"{key}_sha256={sha256} is none; give the 64 hex digits that `sha256sum FILE` prints")


def check_world(name: str | None) -> None:
    """Of the worlds whose pictures are drawn and judged here; None is none of them."""
    if name not in (None, *WORLDS):
        raise UserError(f"world={name} is unknown; take {' or '.join(WORLDS)}")
