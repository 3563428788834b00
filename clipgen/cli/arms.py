"""The arms of a comparison as settings and files: each is what `clipgen train arm=NAME` would take."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from clipgen.check import check, check_clip
from clipgen.check.paired import check_window
from clipgen.check.sampling import check_sampling
from clipgen.cli.build import (
    load_clip_once,
    paired_settings,
    tokenizer_settings,
    transformer_settings,
)
from clipgen.cli.imports import adopt_tokenizer
from clipgen.cli.run import choices_from_shards
from clipgen.cli.say import say
from clipgen.cli.train_paired import read_text
from clipgen.cli.words import quoted
from clipgen.config import Config, asdict_of, complete
from clipgen.data.batches import captioned
from clipgen.data.manifest import Manifest
from clipgen.data.sample import decode_captions
from clipgen.data.shards import ShardSet
from clipgen.data.size import sides
from clipgen.errors import UserError
from clipgen.evaluation.compare import Cost, Variant
from clipgen.evaluation.flops import Size, muon_flops, share_seen, step_flops
from clipgen.paired.model import PairedTransformer
from clipgen.transformer.model import Transformer


@dataclass
class Arm:
    """`cfg` has no null left; `own_tokenizer` is whether it trains a VQGAN that the others do not share."""

    name: str
    cfg: Config
    own_tokenizer: bool

    @property
    def first(self) -> dict[str, Any]:
        """How it is asked before anything is chosen: the sampling of its file."""
        sampling = asdict_of(self.cfg.sampling)
        return {key: sampling[key] for key in self.cfg.compare.arm.choices}

    def captions_shares(self, compared: Config) -> list[float]:
        """Of its file, or those that a comparison asks for; an arm that uses no captions keeps its 0."""
        own = list(self.cfg.compare.arm.captions_shares)
        return list(compared.compare.captions_shares) if any(own) and compared.compare.captions_shares else own


def typed_words() -> list[str]:
    """What the user typed for the settings of a run, to be typed again; not where it runs, nor what it compares."""
    words = HydraConfig.get().overrides.task
    if own := next((word for word in words if word.startswith("compare.arm.")), None):
        raise UserError(f"{own} is of one arm; write it into its file, conf/arm/NAME.yaml of your own --config-dir")
    return [word for word in words if word.lstrip("+~").partition("=")[0] != "out" and not word.startswith("compare.")]


def config_folders() -> list[str]:
    """`--config-dir FOLDER`, where the user gave one."""
    sources = HydraConfig.get().runtime.config_sources
    return [word for each in sources if each.provider == "command-line" for word in ("--config-dir", each.path)]


def find_arms(names: Sequence[str], words: Sequence[str], shards: str) -> list[Arm]:
    """Composed, filled from the shards and checked; the first is the reference, whose tokenizer the others share."""
    found: list[Arm] = []
    tokenizers = []
    for name in names:
        cfg = complete(compose("train", [*words, f"arm={name}", quoted(f"shards={shards}")]))
        if cfg.stage is None:
            raise UserError(f"arm={name} names no stage; write stage: transformer into its file")
        unknown = set(cfg.compare.arm.choices) - set(asdict_of(cfg.sampling))
        if unknown:
            raise UserError(
                f"arm={name}: compare.arm.choices has {sorted(unknown)[0]}, which is no setting of sampling"
            )
        tokenizers.append(asdict_of(cfg.tokenizer))
        own = tokenizers[-1] != tokenizers[0]
        if not own:
            adopt_tokenizer(cfg)
        choices_from_shards(cfg, shards, "images")
        cfg.prep.workers = None
        check(cfg)
        check_clip(cfg.clip)
        if cfg.stage == "transformer" and (weight := cfg.transformer.train.recon.weight):
            raise UserError(
                f"arm={name}: transformer.train.recon.weight={weight:g} decodes pictures and "
                "asks a CLIP while it trains, which the budget of FLOPs does not count; take 0, or train and "
                "`clipgen evaluate` that one by itself"
            )
        found.append(Arm(name, cfg, own))
    return found


def check_way(arm: Arm, way: Mapping[str, Any]) -> None:
    """UserError where the arm's model, as it is trained, could not be asked in this way."""
    cfg = OmegaConf.merge(arm.cfg, {"sampling": dict(way)})
    try:
        check(cfg)
        check_sampling(cfg.sampling, cfg.bank, tokenizer_settings(cfg.tokenizer)["codebook_size"])
    except UserError as problem:
        raise UserError(f"arm {arm.name} could not be asked as its compare.arm.choices say: {problem}") from None


def cost_of(arm: Arm, captions: "Captions | None") -> Cost:
    """Of a batch of its stage 2 with these captions; nothing is trained for it."""
    cfg = arm.cfg
    tokenizer = tokenizer_settings(cfg.tokenizer)
    h, w = (side // cfg.tokenizer.downsample for side in sides(tokenizer["image_size"]))
    predicted, padding = {"head": h * w}, 0.0
    if cfg.stage == "paired":
        check_window(cfg.paired, h * w)
        text, length, mean = read_text(OmegaConf.merge(cfg, {"captions_share": captions.share}), captions)
        padding = length - mean
        settings = paired_settings(cfg, (h, w), tokenizer["codebook_size"], len(text), length)
        kind = PairedTransformer
    else:
        embed_dim = load_clip_once(cfg.clip.model, cfg.clip.pretrained).identity.embed_dim
        settings, kind = (
            transformer_settings(cfg.transformer, (h, w), tokenizer["codebook_size"], embed_dim),
            Transformer,
        )
    with torch.device("meta"):
        model = kind(**settings)
    if cfg.stage == "paired":
        predicted["text_head"] = model.n_prefix - 1 - padding
    size, batch = Size.of(model), cfg.transformer.train.batch_size
    prefix = model.n_prefix - padding
    seen = share_seen(prefix, h * w, model.window, model.pivots)
    flops = step_flops(size, prefix + h * w - 1, predicted, batch, seen)
    if cfg.stage == "transformer" and cfg.transformer.gft:
        flops *= 4 / 3  # one more forward pass, without a condition and gradients
    if cfg.transformer.train.optimizer == "muon":
        flops += muon_flops(model)
    return Cost(size, flops, batch, cfg.transformer.train.warmup)


class Captions:
    """Those of image shards that a training on their latents may use; as many as there are images that have some."""

    def __init__(self, shards: ShardSet, share: float):
        self.shards, self.share, self.rows = shards, share, captioned(shards, share)[0]

    def __len__(self) -> int:
        return len(self.rows)

    def captions(self) -> Iterator[str]:
        for i in self.rows:
            yield from decode_captions(self.shards[int(i)])


def read_captions(variants: Sequence[Variant], shards: str) -> dict[float, Captions]:
    """What the arms that use captions may train on, by share; how many images that are is told."""
    pictures = ShardSet(shards, "train", Manifest.load(shards, "images"))
    found = {}
    for share in dict.fromkeys(each.captions_share for each in variants if each.captions_share):
        found[share] = Captions(pictures, share)
        names = ", ".join(each.name for each in variants if each.captions_share == share)
        if not len(found[share]):
            raise UserError(
                f"{names}: of the {len(pictures):,} images to train on none that has a caption lies in a share of "
                f"{share:g}; take larger compare.captions_shares, such as [1], or pack captions of more images"
            )
        say(f"{names}: {len(found[share]):,} of {len(pictures):,} images, which have captions")
    return found


def check_kept(arms: Sequence[Arm], test: int) -> None:
    """UserError where an arm keeps fewer pictures of a prompt than the others are asked for."""
    for arm in arms:
        own = arm.cfg.compare.arm
        if own.candidates and own.keep < test:
            raise UserError(
                f"compare.test={test}, but arm {arm.name} keeps {own.keep} pictures of a prompt, and distances between "
                f"sets take as many of every arm; take compare.test={own.keep} or fewer"
            )


def check_captions(arms: Sequence[Arm], shards: str) -> None:
    """UserError where an arm needs captions and the shards have none."""
    needy = [arm.name for arm in arms if any(arm.cfg.compare.arm.captions_shares)]
    if not needy or Manifest.load(shards, "images").facts.get("captioned"):
        return
    others = ",".join(arm.name for arm in arms if arm.name not in needy)
    raise UserError(
        f"shards={shards} hold no captions, which arm {' and arm '.join(needy)} needs; add them with "
        f"captions=FILE.tsv, or compare without: compare.arms=[{others}]"
    )


def tokenizer_of(arm: Arm, out: Path) -> tuple[Path, Path]:
    """(checkpoint of its VQGAN, folder of its latents)."""
    if arm.own_tokenizer:
        return out / "tokenizers" / arm.name / "vqgan" / "last.ckpt", out / "tokenizers" / arm.name / "latents"
    ckpt = arm.cfg.tokenizer.ckpt
    return Path(ckpt) if ckpt else out / "vqgan" / "last.ckpt", out / "latents"
