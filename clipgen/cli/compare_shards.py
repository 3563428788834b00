"""The pictures of a comparison: at which size its own are packed, and captions for those that are packed already."""

from pathlib import Path

from clipgen.cli.imports import adopt_tokenizer
from clipgen.cli.machine import pick_device
from clipgen.cli.prep import unmatched_captions
from clipgen.cli.run import choose_size, print_choices, typed_value
from clipgen.cli.say import say
from clipgen.config import Config
from clipgen.data.manifest import Manifest
from clipgen.defaults import choose_image_size
from clipgen.errors import UserError
from data_prep.captions import read_captions
from data_prep.recaption import recaption


def packed_size(cfg: Config) -> list[str]:
    """What is added to the words of `prep`, so that the tokenizer is trained on whole pictures, not on crops of them.

    What is packed already keeps its size, where these are whole pictures too.
    """
    if cfg.prep.size is not None:
        return []
    gpu = pick_device(cfg.trainer.device).type == "cuda"
    print_choices(adopt_tokenizer(cfg))
    if not Manifest.exists(cfg.shards):
        choose_size(cfg, gpu)
        return [f"prep.size={typed_value(cfg.prep.size)}"]
    packed = Manifest.load(cfg.shards, "images")
    side, size = packed.facts["shortest_side"], packed.made_by["prep"]["size"]
    choose_image_size(cfg, side, gpu)
    squares = sum(packed.facts["pixels"].values()) == side**2 * sum(shard.samples for shard in packed.shards)
    if size is None and squares and cfg.tokenizer.image_size == side:
        return []  # as they came
    return [f"prep.size={typed_value(size or cfg.tokenizer.image_size)}"]


def with_captions(cfg: Config, out: Path) -> str:
    """A copy, in `out`, of the shards that lie elsewhere, with the captions that were given for them: its folder."""
    if cfg.captions == "sidecar":
        raise UserError("captions=sidecar lie beside images, and only shards are given; type images=FOLDER instead")
    own = out / "shards"
    facts = recaption(cfg.shards, own, read_captions(cfg.captions)).facts
    say(f"compare: {own} has the pictures of {cfg.shards}, {facts['captioned']:,} of them with captions")
    if facts["unmatched_captions"]:
        say(unmatched_captions(facts))
    return str(own)
