"""`clipgen verify`: every shard read again against its manifest; exit status 1 when something is broken."""

from pathlib import Path

from clipgen.errors import UserError
from clipgen.tools import VerifyConfig


def main(cfg: VerifyConfig) -> None:
    from data_prep.verify import verify

    shards, latents = folders(cfg)
    told = 0
    for folder, of in ((shards, None), (latents, shards)):
        if folder is None:
            continue
        problems = verify(folder, of)
        for problem in problems:
            print(problem)
        broken = {problem.file for problem in problems if problem.file is not None}
        if broken and cfg.repair:
            _repair(cfg, folder, of, broken)
            print(f"verify: made again in {folder}: {', '.join(sorted(broken))}")
            problems = verify(folder, of)
            for problem in problems:
                print(problem)
        verdict = f"has {len(problems)} problem{'s' * (len(problems) > 1)}" if problems else "is as its manifest says"
        print(f"verify: {folder} {verdict}")
        told += len(problems)
    if told:
        raise SystemExit(1)


def folders(cfg: VerifyConfig) -> tuple[str | None, str | None]:
    """(image shards, latents), whichever of them were given; a folder of latents may come as shards= too."""
    from clipgen.data.manifest import Manifest

    shards, latents = cfg.shards, cfg.latents
    if shards is None and latents is None:
        raise UserError("shards is not set; type shards=FOLDER, latents=FOLDER, or both")
    if latents is None and Manifest.load(shards).kind == "latents":
        shards, latents = None, shards
    for folder, kind in ((shards, "images"), (latents, "latents")):
        if folder is not None:
            Manifest.load(folder, kind)
    return shards, latents


def _repair(cfg: VerifyConfig, folder: str, of: str | None, broken: set[str]) -> None:
    from clipgen.data.manifest import Manifest
    from data_prep.captions import read_captions
    from data_prep.repair import repair_images

    if Manifest.load(folder).kind == "images":
        if cfg.images is None:
            raise UserError(f"images is not set; type images=FOLDER, the images that {folder} was packed from")
        captions = cfg.captions if cfg.captions in (None, "sidecar") else read_captions(cfg.captions)
        repair_images(folder, broken, cfg.images, captions)
        return
    if of is None:
        raise UserError(f"shards is not set; type shards=FOLDER, the image shards that {folder} was made of")
    from clipgen.cli.latents import encode_again

    tokenizer = tokenizer_beside(cfg.tokenizer.ckpt, folder)
    encode_again(of, folder, tokenizer, cfg.device, broken, cfg.tokenizer.ckpt_config)


def tokenizer_beside(ckpt: str | None, latents: str) -> Path:
    """The checkpoint of stage 1 that is named, else that of the run which `latents` is part of."""
    return Path(ckpt) if ckpt else Path(latents).resolve().parent / "vqgan" / "last.ckpt"
