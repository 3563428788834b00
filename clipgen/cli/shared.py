"""What the jobs of a sweep over whole runs have in common: shards, VQGAN and latents of the same settings, made once.

Each lies in the sweep's folder under a fingerprint of what it is made from, held by the job that makes it; the others
wait, and find it done. A plain run has all of them in its own folder, which is its own until it ends.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clipgen.cli.say import say
from clipgen.config import Config, asdict_of
from clipgen.data.atomic import fingerprint
from clipgen.data.lock import Claim, alone

OF_NO_EFFECT = ("workers", "check", "batch_size")  # on the shards or latents that come out


class Shared:
    """Tells `cfg` where its data lie; `folder` is None for a plain run. What was given as shards= or latents= stays."""

    def __init__(self, cfg: Config, job: Path):
        plain = job == Path(cfg.out)
        self.cfg, self.folder = cfg, None if plain else job.parent / "shared"
        kinds = ("shards", "latents")
        self.own = {kind: Path(getattr(cfg, kind)).resolve() == Path(cfg.out, kind).resolve() for kind in kinds}
        cfg.out = str(job)
        self.claimed: Claim | None = None

    def claim(self) -> None:
        """Keep other plain runs from this one's folder, once it is there: they would make anew what it trains on."""
        if not self.folder and self.claimed is None and Path(self.cfg.out).is_dir():
            self.claimed = Claim(Path(self.cfg.out))

    @contextmanager
    def shards(self) -> Iterator[None]:
        c = self.cfg
        prep = {key: value for key, value in asdict_of(c.prep).items() if key not in OF_NO_EFFECT}
        of = {"images": str(Path(c.images).absolute()), "captions": c.captions, "prep": prep}
        with self._held("shards", of | ({"clip": self._clip()} if c.prep.clip_words else {})):
            yield

    @contextmanager
    def vqgan(self, images: str) -> Iterator[Path]:
        """The folder to train it in; a job's own has a link to it."""
        link = Path(self.cfg.out) / "vqgan"
        if not self.folder:
            yield link
            return
        of = {"images": images, "tokenizer": asdict_of(self.cfg.tokenizer), "seed": self.cfg.seed, "clip": self._clip()}
        folder = self.folder / f"vqgan-{fingerprint(of)}" / "vqgan"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(folder, link.parent))
        with alone(folder.parent, say):
            yield folder

    @contextmanager
    def latents(self) -> Iterator[None]:
        c = self.cfg
        encode = {key: value for key, value in asdict_of(c.encode).items() if key not in OF_NO_EFFECT}
        tokenizer = c.tokenizer.ckpt or str((Path(c.out) / "vqgan").resolve())
        of = {"shards": c.shards, "tokenizer": tokenizer, "clip": self._clip(), "encode": encode}
        with self._held("latents", of):
            yield

    @contextmanager
    def _held(self, kind: str, of: dict[str, Any]) -> Iterator[None]:
        if not self.folder:
            yield
            return
        if self.own[kind]:
            setattr(self.cfg, kind, str(self.folder / f"{kind}-{fingerprint(of)}"))
        with alone(getattr(self.cfg, kind), say):
            yield

    def _clip(self) -> list[str | None]:
        return [self.cfg.clip.model, self.cfg.clip.pretrained, self.cfg.clip.captions]
