"""A trained model of a comparison, asked: for a trial on development prompts, and once on test prompts.

A verdict is kept as soon as it is there, in the folder of the training; so are the pictures of the test prompts.

P prompts, n pictures of each
"""

import json
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from clipgen.cli.build import load_clip_once
from clipgen.cli.machine import pick_device
from clipgen.cli.record import FILE as STAGE
from clipgen.cli.say import say, say_cut
from clipgen.clip.frozen import load_clip
from clipgen.clip.texts import read_texts
from clipgen.config import WORLDS, Config
from clipgen.data.atomic import fingerprint, replacing, write_json
from clipgen.data.manifest import Manifest
from clipgen.data.sample import decode_captions
from clipgen.data.shards import ShardSet
from clipgen.errors import UserError
from clipgen.evaluation.worlds import World, captioned_world, shapes_world, two_world
from clipgen.pipeline import ClipGen

TRIALS, TEST, PICTURES = "trials.json", "test.json", "test.npz"
JUDGE = "compare.judge_"  # how the settings begin that name the CLIP that marks


def find_world(cfg: Config) -> World:
    """A drawn world, or one's own: captions of held-out pictures or given prompts, and a CLIP that marks answers."""
    if cfg.world in WORLDS:
        return {"shapes": shapes_world, "two": two_world}[cfg.world]()
    c = cfg.compare
    texts = read_texts(c.prompts_file, f"compare.prompts_file={c.prompts_file}", "prompt") if c.prompts_file else []
    if not texts:
        shards = ShardSet(cfg.shards, "val", Manifest.load(cfg.shards, "images"))
        texts = [caption for i in range(len(shards)) for caption in decode_captions(shards[i])[:1]]
        texts = texts or list(cfg.prompts)
    if len(set(texts)) < 2:
        raise UserError(
            f"shards={cfg.shards} have {len(texts)} captions to validate with, so there is nothing to ask for; "
            "pack them with captions, or give prompts=[…] or compare.prompts_file=FILE, two different ones or more"
        )
    clip = judge = load_clip_once(cfg.clip.model, cfg.clip.pretrained)
    if c.judge_model:
        judge = load_clip(c.judge_model, c.judge_pretrained, pick_device(cfg.trainer.device), JUDGE)
    else:
        say("compare.judge_model is not set: the CLIP that conditions scores too, and its figures are circular")
    world = captioned_world(texts, judge, c.prompts)
    asked = [prompt for prompts in world.prompts.values() for prompt in prompts]
    say_cut(clip, asked, f"clip.model={cfg.clip.model}")
    if judge is not clip:
        say_cut(judge, asked, f"compare.judge_model={c.judge_model}")
    return world


class Asked:
    """The model that `stage` in `folder` trained, of which `load` makes a generator when it is first needed.

    `sampling` is what it is asked with where a question says nothing else.
    """

    def __init__(
        self, folder: Path, stage: str, seed: int, world: World, sampling: dict[str, Any], load: Callable[[], ClipGen]
    ):
        self.folder, self.stage, self.seed, self.world = folder, stage, seed, world
        self.sampling, self.load = sampling, load

    @cached_property
    def pipeline(self) -> ClipGen:
        made = self.load()
        if self.stage == "paired":  # what a CLIP cuts was said before
            prompts = [prompt for each in self.world.prompts.values() for prompt in each]
            say_cut(made, prompts, made.reader)
        return made

    @cached_property
    def weights(self) -> str:
        """Which training this is: another one is asked anew."""
        stage = json.loads((self.folder / self.stage / STAGE).read_text(encoding="utf-8"))
        return f"{stage['fingerprint']} {stage['seconds']}"

    def trial(self, settings: dict[str, Any], n: int) -> float:
        """The mean of the world's aim over development prompts; nothing is selected."""
        kept = _read(self.folder / TRIALS)
        key = self._key("development", self.sampling | settings, n)
        if key not in kept:
            prompts = self.world.prompts["development"]
            with tqdm(total=n * len(prompts), desc="development prompts", unit="img") as bar:
                images = self.pipeline.generate(prompts, n, self.seed, bar.update, **settings)
            values_P = self.world.judge("development", images)[self.world.aim]
            kept[key] = {"asked": settings, "value": float(np.nanmean(values_P))}
            write_json(self.folder / TRIALS, kept)
        return kept[key]["value"]

    def test(self, settings: dict[str, Any], n: int, candidates: int | None) -> dict[str, Any]:
        """`values` of each prompt by metric, `seconds` and `tokens_per_s` of the sampling; the pictures are kept.

        With `candidates` the conditioning CLIP keeps the best `n` of so many.
        """
        kept = _read(self.folder / TEST)
        key = self._key("test", self.sampling | settings, n, candidates)
        if kept.get("key") != key:
            prompts = self.world.prompts["test"]
            made, pipeline = len(prompts) * (candidates or n), self.pipeline  # loaded before the clock starts
            began = time.perf_counter()
            with tqdm(total=made, desc="test prompts", unit="img") as bar:
                if candidates:
                    images = pipeline.generate_best(prompts, candidates, n, "clip", self.seed, bar.update, **settings)
                else:
                    images = pipeline.generate(prompts, n, self.seed, bar.update, **settings)
            seconds = time.perf_counter() - began
            values = self.world.judge("test", images)
            with replacing(self.folder / PICTURES) as path, open(path, "wb") as file:
                np.savez_compressed(file, images=np.stack([np.asarray(image) for image in images]))
            tokens = made * pipeline.transformer.n_tokens
            kept = {
                "key": key, "asked": settings, "images": len(images), "seconds": round(seconds, 2),
                "tokens_per_s": round(tokens / seconds, 1),
                "values": {name: [None if np.isnan(v) else float(v) for v in each] for name, each in values.items()},
            }  # fmt: skip
            write_json(self.folder / TEST, kept)
        values = {name: np.array(each, dtype=float) for name, each in kept["values"].items()}
        return kept | {"values": values}

    def pictures(self) -> np.ndarray:
        """Those of the test prompts, uint8 (P·n, H, W, 3)."""
        with np.load(self.folder / PICTURES, allow_pickle=False) as file:
            return file["images"]

    def _key(self, split: str, *how: Any) -> str:
        """Another one wherever the pictures or the verdict on them may be others."""
        world = [self.world.name, self.world.how, self.world.prompts[split]]
        return fingerprint([split, world, self.seed, self.weights, *how])[:24]


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def save_picture(pixels: np.ndarray, path: Path) -> None:
    with replacing(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")
