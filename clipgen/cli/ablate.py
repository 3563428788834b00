"""What a sweep over ways of training stage 2 ends with: each way judged on the demo world, one factor at a time.

A Hydra callback, so that the sweep is one command: `clipgen train -m experiment=ablate_gap` makes the data that it
needs, trains what is missing, and judges. A verdict is kept as soon as it is there.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from clipgen.cli.sweep import ends_the_sweep
from clipgen.errors import UserError

JUDGED = "judged.json"  # in a job's folder: how it was asked → the judge's metrics
DEFAULT = "default"  # the recipe that the others differ from in one thing
EACH = {"development": 2, "test": 4}  # images of a prompt
SHOWN = 6  # prompts in the picture
RESULTS = Path("docs/results")  # of a clone, for the experiment as it is; else the results stay in the sweep's folder
ADDED = {"experiment", "stage", "recipe", "seed"}  # settings that change no training of the experiment


class Ablation(Callback):
    """`name` is that of the results; `first` are commands that make the data, each a list of words."""

    def __init__(
        self,
        name: str,
        bridges: Sequence[str],
        fidelities: Sequence[float],
        guidance_scales: Sequence[float],
        first: Sequence[Sequence[str]] = (),
    ):
        self.name, self.first = name, [list(words) for words in first]
        self.choices = {
            "bridges": list(bridges), "fidelities": list(fidelities), "guidance_scales": list(guidance_scales)
        }  # fmt: skip

    def on_multirun_start(self, config: DictConfig, **_) -> None:
        with ends_the_sweep():
            needed = [Path(config.latents) / "manifest.json"]
            needed += [Path(config.tokenizer.ckpt)] if config.tokenizer.ckpt else []
            if not all(path.is_file() for path in needed):
                for words in self.first:
                    print(f"first: clipgen {' '.join(words)}", flush=True)
                    done = subprocess.run([sys.executable, "-m", "clipgen.cli.main", *words])
                    if done.returncode:
                        raise SystemExit(done.returncode)

    def on_multirun_end(self, config: DictConfig, **_) -> None:
        with ends_the_sweep():
            self.judge_all(config, Path(config.hydra.sweep.dir))

    def judge_all(self, config: DictConfig, sweep: Path) -> None:
        from clipgen.cli.machine import made_with, pick_device
        from clipgen.config import complete
        from clipgen.data.atomic import replacing, write_json
        from clipgen.evaluation.ablation import Ablation as Rows
        from clipgen.evaluation.ablation import as_json, table

        plain = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
        verdicts = Verdicts(complete(plain), found_jobs(sweep))
        seeds = verdicts.seeds
        if DEFAULT not in seeds:
            raise UserError(f"{sweep} has no finished training of the recipe {DEFAULT}; type the same command again")
        rows = Rows(verdicts.judge, seeds, **self.choices, least=verdicts.least()).rows()
        words = config.hydra.overrides.task
        content = {
            **made_with(pick_device(config.trainer.device)),
            "command": f"clipgen train -m {' '.join(words)}", "seeds": seeds,
            "steps": config.transformer.train.steps, "sampling": OmegaConf.to_container(config.sampling),
            "images_of_a_prompt": EACH, "copies": verdicts.copies(rows["default"].asked), "rows": as_json(rows),
        }  # fmt: skip
        as_it_is = f"experiment={self.name}" in words and {word.partition("=")[0] for word in words} <= ADDED
        published = as_it_is and RESULTS.is_dir() and covers(seeds, RESULTS / f"{self.name}.json")
        folder = RESULTS if published else sweep
        write_json(folder / f"{self.name}.json", content)
        with replacing(folder.parent / f"{self.name}.png" if folder == RESULTS else sweep / f"{self.name}.png") as path:
            verdicts.picture(rows).save(path, format="PNG", optimize=True)
        print(table(rows))
        print(f"the figures are in {folder / self.name}.json")


def covers(seeds: dict[str, list[int]], record: Path) -> bool:
    """Whether all trainings of an earlier record are among these, so that it may be replaced."""
    if not record.is_file():
        return True
    earlier = json.loads(record.read_text(encoding="utf-8"))["seeds"]
    return all(set(each) <= set(seeds.get(variant, [])) for variant, each in earlier.items())


def found_jobs(sweep: Path) -> dict[tuple[str, int], Path]:
    """(variant, seed) → folder of each finished job: a variant is NAME of `recipe=gap/NAME`."""
    jobs = {}
    for path in sorted(sweep.glob("*/transformer/stage.json")):
        swept = dict(word.partition("=")[::2] for word in path.parents[1].name.split(","))
        if "recipe" not in swept:
            raise UserError(f"{path.parents[1]} does not name its recipe, as only one was asked for; give two or more")
        if other := set(swept) - {"recipe", "seed"}:
            raise UserError(f"{path.parents[1]} swept {sorted(other)[0]} too; an ablation is of recipe and seed alone")
        if json.loads(path.read_text(encoding="utf-8"))["status"] == "done":
            jobs[swept["recipe"].removeprefix("gap_"), int(swept.get("seed", 0))] = path.parents[1]
    return jobs


class Verdicts:
    """The judge's metrics of any job asked in any way; each is made once and kept in the job's folder."""

    def __init__(self, cfg, jobs: dict[tuple[str, int], Path]):
        from clipgen.config import asdict_of
        from clipgen.data.atomic import fingerprint
        from clipgen.data.manifest import Manifest

        self.cfg, self.jobs = cfg, jobs
        variants = sorted({variant for variant, _ in jobs}, key=lambda variant: (variant != DEFAULT, variant))
        self.seeds = {each: sorted(seed for variant, seed in jobs if variant == each) for each in variants}
        self.pipeline = lru_cache(max(map(len, self.seeds.values()), default=0) + 1)(self._pipeline)
        latents = Manifest.load(cfg.latents, "latents").content
        how = {"sampling": asdict_of(cfg.sampling), "each": EACH, "latents": latents, "bank": cfg.bank}
        self.how = fingerprint(how)

    def judge(self, variant: str, seed: int, asked, split: str) -> dict[str, float]:
        from clipgen.data.atomic import write_json

        kept = self.jobs[variant, seed] / JUDGED
        known = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
        key = f"{split} {json.dumps(asdict(asked), sort_keys=True)} {self._weights(variant, seed)} {self.how[:16]}"
        if key not in known:
            known[key] = self._judged(variant, seed, asked, split).metrics
            write_json(kept, known)
        return known[key]

    def least(self) -> dict[str, float]:
        """The lowest level that each variant was trained at; any may be asked of a model that is not told."""
        found = {}
        for variant, seeds in self.seeds.items():
            path = self.jobs[variant, seeds[0]] / "transformer" / "stage.json"
            settings = json.loads(path.read_text(encoding="utf-8"))["settings"]
            told = settings["transformer"].get("level_token", True)
            found[variant] = settings["transformer.train"]["min_level"] if told else 0.0
        return found

    def _weights(self, variant: str, seed: int) -> str:
        from clipgen.cli.assemble import transformer_checkpoint

        seen = transformer_checkpoint(self.jobs[variant, seed] / "transformer").stat()
        return f"{seen.st_size} {seen.st_mtime_ns}"

    def _judged(self, variant: str, seed: int, asked, split: str):
        from clipgen.evaluation.world import judge_by_pictures, judge_generator
        from clipgen.shapes.prompts import ablation_prompts

        prompts = ablation_prompts()[split == "test"]
        how = {"fidelity": asked.fidelity, "guidance_scale": asked.guidance_scale}
        if asked.by == "image":
            return judge_by_pictures(self.pipeline(variant, seed), prompts, EACH[split], seed, **how)
        return judge_generator(self.pipeline(variant, seed), prompts, EACH[split], seed, bridge=asked.bridge, **how)

    def _pipeline(self, variant: str, seed: int):
        from clipgen.cli.assemble import assemble_stage
        from clipgen.cli.machine import pick_device

        return assemble_stage(self.cfg, self.jobs[variant, seed] / "transformer", pick_device(self.cfg.trainer.device))

    def copies(self, asked) -> dict[str, float]:
        """Mean distance to the nearest training picture, in levels: of samples, and of fresh pictures of the world."""
        import numpy as np

        from clipgen.data.module import ImageData
        from clipgen.evaluation.nearest import nearest
        from clipgen.shapes.draw import draw, scenes

        made = self._judged(DEFAULT, self.seeds[DEFAULT][0], asked, "development").images
        samples = [np.asarray(image) for image in made]
        size = samples[0].shape[0]
        fresh = [draw(scene, size) for scene in scenes(len(samples), 20_261_123)]
        data = ImageData(self.cfg.shards, size, 256, 1)
        data.setup("fit")
        distances = {}
        for name, pictures in (("samples", samples), ("fresh", fresh)):
            n = data.n_train
            training = (data.train_batches.plain(range(i, min(i + 1000, n))) for i in range(0, n, 1000))
            levels = nearest(np.stack(pictures), training)[1]
            distances |= {name: round(float(levels.mean()), 2), f"{name}_least": round(float(levels.min()), 2)}
        return distances

    def picture(self, rows):
        """The same prompts and seeds: a row of pictures for each bridge, and by image."""
        import numpy as np

        from clipgen.picture import image_grid
        from clipgen.shapes.prompts import ablation_prompts

        prompts = ablation_prompts()[1]
        chosen = prompts[:: len(prompts) // SHOWN][:SHOWN]
        names = [name for name in rows if name in ("image", "plain_swap, bridge=none") or name.startswith("bridge=")]
        images, labels = [], []
        for name in names:
            made = self._shown(rows[name], chosen)
            images += [np.asarray(image) for image in made]
            labels.append(name)
        return image_grid(images, 2 * len(chosen), labels)

    def _shown(self, row, prompts):
        from clipgen.evaluation.world import judge_by_pictures, judge_generator

        seed, asked, n = self.seeds[row.variant][0], row.asked, 2
        pipeline = self.pipeline(row.variant, seed)
        how = {"fidelity": asked.fidelity, "guidance_scale": asked.guidance_scale}
        if asked.by == "image":
            return judge_by_pictures(pipeline, prompts, n, seed, **how).images
        return judge_generator(pipeline, prompts, n, seed, bridge=asked.bridge, **how).images
