"""Invariants of a config that no type can hold; a UserError names the keys and the mend."""

from pathlib import Path

from clipgen.check.paired import check_paired
from clipgen.check.ranges import check_ranges, check_size
from clipgen.check.sampling import check_sampling
from clipgen.check.tokenizer import check_tokenizer
from clipgen.check.training import check_batches, check_halves, check_strategy
from clipgen.check.transformer import check_guidance, check_heads, check_transformer
from clipgen.config import WORLDS, Clip, Config
from clipgen.errors import UserError


def check(cfg: Config) -> None:
    """Invariants across groups that no type can hold; a UserError names the keys and the mend."""
    t = cfg.tokenizer
    check_ranges(cfg)
    check_paired(cfg)
    check_sampling(cfg.sampling, cfg.bank)
    check_size("prep.size", cfg.prep.size, 1)
    check_tokenizer(t)
    check_transformer(cfg)
    check_strategy(cfg)
    check_halves(cfg)
    check_guidance(cfg)
    check_batches(cfg)
    if (scale := cfg.clip.train.logit_scale) is not None and not 0 < scale <= 100:
        raise UserError(f"clip.train.logit_scale={scale:g}; take a number above 0 and up to 100, or null to learn it")
    check_world(cfg.world)
    if cfg.world and not isinstance(t.image_size, int | None):
        raise UserError(f"world={cfg.world} draws squares, but tokenizer.image_size={t.image_size}; take one number")
    check_heads(cfg.transformer)
    if "" in (prompt.strip() for prompt in cfg.prompts):
        raise UserError(f"prompts={list(cfg.prompts)} has an empty one; leave it out")


def check_clip(clip: Clip) -> None:
    """UserError where a CLIP that does not ship is not made yet, with the commands that make it."""
    if not clip.made_by or not clip.model.startswith("local-dir:"):
        return
    if not (Path(clip.model.removeprefix("local-dir:")) / "open_clip_config.json").is_file():
        raise UserError(f"clip.model={clip.model} is not made yet; type first: {clip.made_by}")


def check_world(name: str | None) -> None:
    """Of the worlds whose pictures are drawn and judged here; None is none of them."""
    if name not in (None, *WORLDS):
        raise UserError(f"world={name} is unknown; take {' or '.join(WORLDS)}")
