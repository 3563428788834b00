"""Stage 1: the network, its codebook, and what it is trained with."""

import math
import re
from collections.abc import Sequence

from clipgen.check.ranges import check_size, value_of
from clipgen.config import Tokenizer, VQGANTraining
from clipgen.errors import UserError

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


def check_tokenizer(t: Tokenizer) -> None:
    """UserError for a network that cannot be built, or a training that cannot be."""
    check_size("tokenizer.image_size", t.image_size, 8)
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
        value, default = value_of(t, name), value_of(Tokenizer(), name)
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
