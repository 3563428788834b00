"""`clipgen prep`: a folder of images → image shards with a manifest and a list of what was set aside."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from clipgen.check import check
from clipgen.cli.say import say
from clipgen.config import Config, asdict_of
from clipgen.errors import UserError


def main(cfg: Config) -> None:
    from data_prep.local import get_ready

    if cfg.executor.kind == "local" and cfg.prep.workers != 1:
        get_ready("data_prep.chunk")  # beside the imports that follow, which take as long
    from clipgen.cli.machine import cores
    from clipgen.config import complete

    cfg = complete(cfg)
    check(cfg)
    cfg.prep.workers = cfg.prep.workers or cores()
    manifest = pack_images(cfg, cfg.replace)
    say(summary(manifest, cfg.shards))


def pack_images(cfg: Config, replace: bool = False):
    """folder → the manifest of image shards; what is done is not done again."""
    from data_prep.captions import read_captions
    from data_prep.executor import Executor
    from data_prep.pack import pack
    from data_prep.settings import PackSettings

    if not cfg.images:
        raise UserError("images is not set; type images=FOLDER, the folder that holds your images")
    values = {key: value for key, value in asdict_of(cfg.prep).items() if key not in ("workers", "check")}
    captions = cfg.captions if cfg.captions in (None, "sidecar") else read_captions(cfg.captions)
    clip = clip_score(cfg) if cfg.prep.clip_words else None
    executor = Executor(**asdict_of(cfg.executor) | {"gpus": 0})  # which decode no image
    settings, workers = PackSettings(**values), cfg.prep.workers or 1
    return pack(cfg.images, cfg.shards, settings, workers, captions, replace, cfg.prep.check, clip, executor, say)


def clip_score(cfg: Config) -> tuple[Callable[[Sequence], list[float]], str]:
    """The highest cosine of each picture with one of prep.clip_words, and the name of the CLIP that says so."""
    import numpy as np
    import torch

    from clipgen.cli.build import load_clip_once
    from clipgen.cli.machine import pick_device
    from clipgen.data.transforms import to_model_range

    device = pick_device(cfg.trainer.device)
    clip = load_clip_once(cfg.clip.model, cfg.clip.pretrained, device)
    text_NE = clip.encode_text(list(cfg.prep.clip_words))

    def score(pictures: Sequence) -> list[float]:
        if not pictures:
            return []
        pixels_BSS3 = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).to(device)
        return (clip.encode_image(to_model_range(pixels_BSS3)) @ text_NE.T).amax(1).tolist()

    return score, clip.identity.fingerprint()


def summary(manifest, shards: str) -> str:
    """A few lines: how many, where, and what was not taken."""
    facts = manifest.facts
    lines = [
        f"prep: {facts['written']:,} of {facts['seen']:,} files are in {shards} "
        f"({manifest.samples('train'):,} to train on, {manifest.samples('val'):,} to validate)"
    ]
    if facts["duplicates"]:
        copies = f"{facts['duplicates']:,} duplicate{'s were' if facts['duplicates'] > 1 else ' was'}"
        lines.append(f"{copies} left out; {shards}/files.jsonl says of what")
    if facts["set_aside"]:
        reasons = ", ".join(f"{count} {reason}" for reason, count in facts["set_aside"].items())
        lines.append(f"set aside: {reasons}; {shards}/quarantine.jsonl says which")
    if facts["unmatched_captions"]:
        lines.append(unmatched_captions(facts))
    if failed := facts.get("img2dataset_failed_rows"):
        lines.append(f"{failed:,} rows failed when img2dataset made these tars, by its own counts")
    lines.append(f"{shards}/prep_report.html shows it")
    return "\n      ".join(lines)


def unmatched_captions(facts: Mapping[str, Any]) -> str:
    """How many captions are of nothing, in words."""
    many, first = facts["unmatched_captions"], facts["first_unmatched_caption"]
    return f"captions of {many:,} file{'s' * (many > 1)} match no image, the first is {first!r}"
