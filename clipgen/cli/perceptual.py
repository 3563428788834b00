"""The perceptual loss of stage 1 by its name in the config, and what of its weights goes into the stage's record."""

from functools import partial
from pathlib import Path

import torch

from clipgen.check.tokenizer import PERCEPTUAL_FILES
from clipgen.checkpoint import read_weights
from clipgen.cli.say import say
from clipgen.clip.frozen import FrozenClip
from clipgen.config import Tokenizer, VQGANTraining
from clipgen.data.atomic import sha256_file
from clipgen.data.size import Size, sides
from clipgen.errors import UserError
from clipgen.tokenizer.loss import perceptual_distance
from clipgen.tokenizer.module import Perceptual
from clipgen.tokenizer.perceptual import LPIPS, SqueezeNet

PERCEPTUAL_FILE_KEYS = ("perceptual_weights", "perceptual_sha256")  # in a record their sha256 stands for them
LINS = "vgg.pth"  # of LPIPS, beside a VGG16


def needs_clip(cfg: VQGANTraining) -> bool:
    return cfg.perceptual == "clip" and cfg.perceptual_weight > 0


def perceptual_inputs(cfg: VQGANTraining) -> list[str] | None:
    """The sha256 of each file of weights in use; UserError when it is missing or not the one that was wanted."""
    if cfg.perceptual not in PERCEPTUAL_FILES or not cfg.perceptual_weight > 0:
        return None
    path, key = Path(cfg.perceptual_weights), "tokenizer.train.perceptual"
    if not path.is_file():
        raise UserError(
            f"{key}_weights={path} does not exist; give {PERCEPTUAL_FILES[cfg.perceptual]}, or take {key}=clip"
        )
    found = [sha256_file(file) for file in (path, _lins(cfg.perceptual, cfg.perceptual_weights)) if file]
    if cfg.perceptual_sha256 and found[0] != cfg.perceptual_sha256.lower():
        raise UserError(f"{key}_weights={path} has sha256 {found[0]}, but {key}_sha256={cfg.perceptual_sha256}")
    return found


def perceptual_loss(cfg: Tokenizer, device: torch.device, clip: FrozenClip | None) -> Perceptual | None:
    """A function, as the training module must not hold the network; None for `none` and for a weight of 0."""
    t = cfg.train
    if t.perceptual == "none" or not t.perceptual_weight > 0:
        return None
    if t.perceptual == "clip":
        return partial(perceptual_distance, clip.features)
    key = "tokenizer.train.perceptual"
    network = perceptual_network(t.perceptual, t.perceptual_weights, key)
    if too_small(cfg.image_size, network):
        raise UserError(
            f"tokenizer.image_size={cfg.image_size} is too small for {key}={t.perceptual}; take at least "
            f"{network.least_size}, or {key}=clip"
        )
    say(f"perceptual loss: {described(network, t.perceptual_weights)}")
    return network.to(device).distance


def perceptual_network(kind: str, weights: str, key: str) -> LPIPS | SqueezeNet:
    """The network of that kind with the weights of a file; `key` is the setting that a UserError names."""
    if not Path(weights).is_file():
        raise UserError(f"{key}_weights={weights} does not exist; give {PERCEPTUAL_FILES[kind]}")
    tensors, lins = read_weights(weights), _lins(kind, weights)
    try:
        if kind == "lpips":
            return LPIPS.of(tensors, read_weights(lins) if lins else None)
        return SqueezeNet.of(tensors)
    except ValueError as problem:
        raise UserError(f"{key}_weights={weights}: {problem}; give {PERCEPTUAL_FILES[kind]}") from problem


def too_small(size: Size, network: LPIPS | SqueezeNet) -> bool:
    return min(sides(size)) < network.least_size


def described(network: LPIPS | SqueezeNet, weights: str) -> str:
    """Which distance it is, in a few words."""
    if isinstance(network, SqueezeNet):
        return f"features of SqueezeNet 1.1 ({Path(weights).name}), all channels alike"
    channels = "weighted" if network.weighted else f"all channels alike, as there is no {LINS} beside it"
    return f"LPIPS of {Path(weights).name}, {channels}"


def _lins(kind: str, weights: str) -> Path | None:
    """LPIPS's own weights of the channels, beside the file of a VGG16."""
    path = Path(weights).with_name(LINS)
    return path if kind == "lpips" and path.is_file() and path != Path(weights) else None
