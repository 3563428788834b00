"""`clipgen compare`: ways to train, side by side on the same shards; each command is run once, each verdict is kept."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from clipgen.cli.choices import Choice, earlier_choices
from clipgen.config import Comparison, Config, asdict_of
from clipgen.errors import UserError


def main(cfg: Config) -> None:
    from clipgen.cli.arms import typed_words
    from clipgen.cli.run import use_threads
    from clipgen.config import complete
    from clipgen.data.lock import Claim

    cfg = complete(cfg)
    check_comparison(cfg)
    use_threads(cfg)
    Path(cfg.out).mkdir(parents=True, exist_ok=True)
    claim = Claim(Path(cfg.out))  # two at once would take each other's trainings for failed
    try:
        compare(Compared(cfg, typed_words()))
    finally:
        claim.release()


def compare(compared: "Compared") -> None:
    """From the pictures to the page; what has to do with settings and files is refused before hours of training."""
    from clipgen.cli.arms import check_captions, check_kept, check_way, cost_of, find_arms, read_captions
    from clipgen.cli.say import say
    from clipgen.evaluation.compare import check_sizes, steps_of, variants_of

    cfg = compared.cfg
    compared.pack()
    compared.arms = {arm.name: arm for arm in find_arms(cfg.compare.arms, compared.words, cfg.shards)}
    check_captions(list(compared.arms.values()), cfg.shards)
    check_kept(list(compared.arms.values()), cfg.compare.test)
    for arm in compared.arms.values():
        for way in compared.ways(arm):
            check_way(arm, way)
    compared.world  # noqa: B018 what is wrong with prompts and judge is said
    compared.variants = variants_of({arm.name: arm.captions_shares(cfg) for arm in compared.arms.values()})
    captions = read_captions(compared.variants, cfg.shards)
    compared.captioned = {share: len(each) for share, each in captions.items()}
    costs = {
        each.name: cost_of(compared.arms[each.arm], captions.get(each.captions_share)) for each in compared.variants
    }
    check_sizes(costs, cfg.compare.tolerance)
    compared.costs, compared.batches = costs, steps_of(costs, cfg.compare.steps, cfg.compare.tolerance)
    for variant in compared.variants:
        steps, cost = compared.batches[variant.name], costs[variant.name]
        say(f"{variant.name}: {steps['flops']:,} batches of {cost.batch}, {steps['flops'] * cost.flops:.3g} FLOPs")
    if cfg.compare.chosen:
        compared.chosen = compared.chosen_before()
    compared.pictures  # noqa: B018 and what is wrong with its files
    compared.make_latents()
    for seed in cfg.compare.seeds:
        compared.do_seed(seed)
        compared.report()
    if compared.unfinished:
        for (name, seed), why in compared.unfinished.items():
            say(f"unfinished: {name}, seed {seed}: {why}")
        raise SystemExit(1)


def check_comparison(cfg: Config) -> None:
    """UserError for what no type can hold."""
    from clipgen.check.paired import check_task
    from clipgen.evaluation.compare import REFERENCE

    check_task(cfg)
    c: Comparison = cfg.compare
    for key, least in (("steps", 1), ("jobs", 1), ("trials", 1), ("development", 1), ("test", 1), ("prompts", 1)):
        if (value := getattr(c, key)) < least:
            raise UserError(f"compare.{key}={value}; take at least {least}")
    if c.side_seeds is not None and not 1 <= c.side_seeds <= len(c.seeds):
        raise UserError(
            f"compare.side_seeds={c.side_seeds} of {len(c.seeds)} seeds; take 1 to {len(c.seeds)}, or null for all"
        )
    for key in ("arms", "seeds", "lr_factors"):
        values = list(getattr(c, key))
        if not values or len(set(values)) < len(values):
            raise UserError(f"compare.{key}={values}; give one or more, each once")
    shares = list(c.captions_shares)
    if len(set(shares)) < len(shares) or not all(0 < share <= 1 for share in shares):
        raise UserError(f"compare.captions_shares={shares}; give shares above 0 and up to 1, each once")
    if c.arms[0] != REFERENCE:
        raise UserError(f"compare.arms={list(c.arms)}: the others are given the budget of {REFERENCE}; put it first")


@dataclass(frozen=True)
class Job:
    """One training of stage 2."""

    variant: Any
    seed: int
    steps: int
    lr_factor: float

    @property
    def name(self) -> str:
        return f"{self.variant.name}/{self.steps}-lr{self.lr_factor:g}-seed{self.seed}"


class Compared:
    """What is done of a comparison, and what is left to do."""

    def __init__(self, cfg: Config, words: list[str]):
        from clipgen.cli.steps import FILE, Steps

        self.cfg, self.words, self.out = cfg, words, Path(cfg.out)
        self.commands = Steps(self.out / FILE)
        self.arms, self.costs, self.batches, self.variants = {}, {}, {}, []
        self.captioned: dict[float, int] = {}  # training images by share of the captions
        self.chosen: dict[str, Choice] = {}  # by variant
        self.tested: dict[tuple[str, str, int], tuple[Job, dict[str, Any]]] = {}  # table, variant, seed
        self.ceilings: dict[Path, dict[str, float]] = {}  # by tokenizer
        self.failed: set[Job] = set()
        self.unfinished: dict[tuple[str, int], str] = {}  # variant, seed → why

    def run(self, made: Path, inputs: tuple[Path, ...], *words: str) -> None:
        from clipgen.cli.arms import config_folders
        from clipgen.cli.steps import Step

        verb, *rest = words
        self.commands.run(Step((verb, *config_folders(), *rest), made, inputs))

    def needed(self, made: Path, inputs: tuple[Path, ...], *words: str) -> None:
        """As `run`, but nothing goes on without it."""
        from clipgen.cli.steps import Failed

        try:
            self.run(made, inputs, *words)
        except Failed as problem:
            raise SystemExit(problem.status) from None  # it has said why

    def pack(self) -> None:
        """Draw and pack the pictures; shards that lie elsewhere are taken as they are, or with the given captions."""
        from clipgen.cli.compare_shards import packed_size, with_captions
        from clipgen.data.atomic import write_json
        from clipgen.data.manifest import Manifest

        cfg, shards = self.cfg, Path(self.cfg.shards)
        own = shards.resolve().is_relative_to(self.out.resolve()) and (cfg.images or not Manifest.exists(shards))
        if own and not cfg.images:
            raise UserError("neither shards nor images is set; give shards=FOLDER, or images=FOLDER and captions=FILE")
        if own:
            manifest = shards / "manifest.json"
            for number, words in enumerate(cfg.compare.first):
                done = self.out / f"first-{number}.json"
                self.needed(done, (), *words)
                write_json(done, list(words))
            captions = (Path(cfg.captions),) if cfg.captions and cfg.captions != "sidecar" else ()
            self.needed(manifest, captions, "prep", *self.words, *packed_size(cfg), f"out={self.out}")
        elif cfg.captions and (not cfg.images or any(word.startswith("captions=") for word in self.words)):
            cfg.shards = with_captions(cfg, self.out)
        Manifest.load(cfg.shards, "images")

    def make_latents(self) -> None:
        """The VQGAN and the latents that the arms share, and those of an arm with a tokenizer of its own."""
        from clipgen.cli.arms import tokenizer_of

        made = set()
        for arm in self.arms.values():
            ckpt, latents = tokenizer_of(arm, self.out)
            if latents in made:
                continue
            made.add(latents)
            shards = Path(self.cfg.shards) / "manifest.json"
            common = (*self.words, f"arm={arm.name}", f"out={latents.parent}", f"shards={self.cfg.shards}")
            if not arm.cfg.tokenizer.ckpt or arm.own_tokenizer:
                own = ("tokenizer.ckpt=null",) if arm.own_tokenizer else ()
                seed = f"seed={self.cfg.compare.seeds[0]}"
                vqgan = ckpt.parent / "stage.json"
                self.needed(vqgan, (shards,), "train", *common, "stage=vqgan", seed, *own)
            given = (f"tokenizer.ckpt={ckpt}", f"latents={latents}", "encode.own_captions=false", "replace=true")
            self.needed(latents / "manifest.json", (shards, ckpt), "encode", *common, *given)

    def do_seed(self, seed: int) -> None:
        """Train, choose (with the first seed), and ask the test prompts; what fails is named at the end."""
        from clipgen.evaluation.compare import main_variants

        c = self.cfg.compare
        side = c.side_seeds is None or seed in c.seeds[: c.side_seeds]
        tables = ("flops", "images") if c.equal_images and side else ("flops",)
        variants = self.variants if side else main_variants(self.variants)
        if seed == c.seeds[0] and not c.chosen:
            known = tables if len(c.lr_factors) == 1 else ("flops",)  # with nothing to choose none waits for a choice
            tried = {
                each.name: [Job(each, seed, self.batches[each.name]["flops"], factor) for factor in c.lr_factors]
                for each in self.variants
            }
            self.train(
                [
                    Job(each, seed, self.batches[each.name][table], factor)
                    for table in known
                    for each in self.variants
                    for factor in c.lr_factors
                ]
            )
            for name, jobs in tried.items():
                self.attempt(name, seed, self.choose, name, [job for job in jobs if job not in self.failed])
        wanted = {
            (table, each.name, seed): Job(each, seed, self.batches[each.name][table], self.chosen[each.name].lr_factor)
            for each in variants
            for table in tables
            if each.name in self.chosen
        }
        jobs = list(dict.fromkeys(wanted.values()))
        self.train(jobs)
        for job in jobs:
            if job not in self.failed and (tested := self.attempt(job.variant.name, seed, self.test, job)):
                self.tested |= {key: tested for key, own in wanted.items() if own == job}

    def attempt(self, name: str, seed: int, do: Callable, *what: Any) -> Any:
        """What `do` gives; None where the user has to mend something of this variant, which ends no other."""
        try:
            return do(*what)
        except UserError as problem:
            self.unfinished[name, seed] = str(problem)
            return None

    def test(self, job: Job) -> tuple[Job, dict[str, Any]]:
        """Asked the test prompts, once."""
        arm = self.arms[job.variant.arm].cfg.compare.arm
        n = arm.keep if arm.candidates else self.cfg.compare.test
        return job, self.asked(job).test(self.chosen[job.variant.name].asked, n, arm.candidates)

    def choose(self, name: str, jobs: list[Job]) -> None:
        """The learning rate by one trial each, then how to ask by `compare.trials`, all on development prompts.

        A rate whose training failed, as one that is too high, is a trial that was lost; without any nothing is chosen.
        """
        from clipgen.data.atomic import write_json
        from clipgen.evaluation.compare import best

        if not jobs:
            return
        c, arm = self.cfg.compare, self.arms[jobs[0].variant.arm]
        n, job = c.development, jobs[0]
        if len(jobs) > 1:
            job = best(jobs, lambda each: self.asked(each).trial(arm.first, n))
        model = self.asked(job)
        tried = [(each, model.trial(each, n)) for each in self.ways(arm)]
        asked, value = best(tried, lambda each: each[1])
        rates = len(c.lr_factors) - 1  # the rate that is kept is asked in this way once more, and counted once
        lrs = tuple(arm.cfg.transformer.train.lr * factor for factor in sorted(c.lr_factors))
        self.chosen[name] = Choice(job.lr_factor, asked, c.trials + rates, lrs)
        content = {"lr_factor": job.lr_factor, "asked": asked, "value": value}
        content["tried"] = [{**a, "value": v} for a, v in tried]
        write_json(self.out / "arms" / name / "chosen.json", content)

    def chosen_before(self) -> dict[str, Choice]:
        """By an earlier comparison, so that nothing is tried."""
        trains = {each.name: self.arms[each.arm].cfg.transformer.train for each in self.variants}
        choices = {each.name: set(self.arms[each.arm].first) for each in self.variants}
        return earlier_choices(self.cfg.compare.chosen, trains, choices)

    def ways(self, arm) -> list[dict[str, Any]]:
        """How an arm is asked in its trials."""
        from clipgen.evaluation.compare import trials

        return trials(arm.name, arm.first, arm.cfg.compare.arm.choices, self.cfg.compare.trials)

    def train(self, jobs: list[Job]) -> None:
        """Those that are not there yet, `compare.jobs` at once; which fail is kept in `unfinished`.

        The longest go first, so that the last one does not keep the other cores waiting.
        """
        jobs = sorted(jobs, key=lambda job: job.steps * self.costs[job.variant.name].flops, reverse=True)
        steps = {self.step(job): job for job in jobs}
        for step, failed in self.commands.run_all(list(steps), self.cfg.compare.jobs).items():
            job = steps[step]
            self.failed.add(job)
            rate = f" at {job.lr_factor:g} times its learning rate" * (len(self.cfg.compare.lr_factors) > 1)
            self.unfinished[job.variant.name + rate, job.seed] = str(failed)

    def step(self, job: Job):
        """The command that trains it."""
        from clipgen.cli.arms import config_folders, tokenizer_of
        from clipgen.cli.machine import cores
        from clipgen.cli.steps import Step

        arm, at_once = self.arms[job.variant.arm], self.cfg.compare.jobs
        train = arm.cfg.transformer.train
        ckpt, latents = tokenizer_of(arm, self.out)
        words = [*self.words, f"arm={arm.name}", f"seed={job.seed}", f"out={self.folder(job)}"]
        words += [f"shards={self.cfg.shards}", f"latents={latents}", f"tokenizer.ckpt={ckpt}"]
        words += [f"transformer.train.steps={job.steps}"]
        if job.variant.captions_share:
            words.append(f"captions_share={job.variant.captions_share:g}")
        if job.lr_factor != 1:
            words += [f"transformer.train.{key}={getattr(train, key) * job.lr_factor:g}" for key in ("lr", "muon_lr")]
        if at_once > 1 and not self.cfg.trainer.threads:
            words.append(f"trainer.threads={max(1, cores() // at_once)}")
        made = self.folder(job) / arm.cfg.stage / "stage.json"
        return Step(("train", *config_folders(), *words), made, (latents / "manifest.json", ckpt))

    def tests(self, table: str, variant: str) -> list[tuple[Job, dict[str, Any]]]:
        """Of each seed that is done, in order."""
        return [found for (at, name, _), found in self.tested.items() if (at, name) == (table, variant)]

    def folder(self, job: Job) -> Path:
        return self.out / "arms" / job.name

    def asked(self, job: Job):
        from clipgen.cli.asking import Asked

        cfg = self.arms[job.variant.arm].cfg
        sampling = asdict_of(cfg.sampling) | {"bank": cfg.bank}
        return Asked(self.folder(job), cfg.stage, job.seed, self.world, sampling, lambda: self.generator(job))

    @cached_property
    def world(self):
        from clipgen.cli.asking import find_world

        return find_world(self.cfg)

    @cached_property
    def pictures(self):
        from clipgen.cli.compare_pictures import PictureFigures

        return PictureFigures(self)

    def ceiling(self, arm) -> dict[str, float]:
        """What the judge says of reconstructions by an arm's tokenizer, by metric; nothing where none can be drawn."""
        from clipgen.cli.arms import tokenizer_of
        from clipgen.cli.build import load_tokenizer

        if self.world.ceiling is None:
            return {}
        ckpt, _ = tokenizer_of(arm, self.out)
        if ckpt not in self.ceilings:
            vqgan, *_ = load_tokenizer(ckpt, arm.cfg.tokenizer.ckpt_config)
            self.ceilings[ckpt] = self.world.ceiling(vqgan)
        return self.ceilings[ckpt]

    def generator(self, job: Job):
        from clipgen.cli.arms import tokenizer_of
        from clipgen.cli.assemble import ASSEMBLERS, transformer_checkpoint
        from clipgen.cli.machine import pick_device

        arm = self.arms[job.variant.arm]
        ckpt, latents = tokenizer_of(arm, self.out)
        weights = transformer_checkpoint(self.folder(job) / arm.cfg.stage)
        return ASSEMBLERS[arm.cfg.stage](arm.cfg, ckpt, weights, latents, pick_device(self.cfg.trainer.device))

    def report(self) -> None:
        from clipgen.cli.comparison import content
        from clipgen.cli.run import save_config
        from clipgen.cli.say import say
        from clipgen.data.atomic import write_json
        from clipgen.evaluation.compare_report import write_comparison

        save_config(self.cfg, self.out)
        write_json(self.out / "compare.json", content(self))
        say(f"compare: {write_comparison(self.out)}")
