"""`clipgen compare`: every arm gets as much, each thing is made once, and what fails is named."""

import json
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from clipgen import Captioner, shapes
from clipgen.cli import arms, asking, build, compare_pictures, comparison, steps
from clipgen.data.lock import Claim
from clipgen.data.sample import decode_captions
from clipgen.data.shards import ShardSet
from clipgen.errors import UserError
from clipgen.evaluation import worlds
from clipgen.paired.captioner import CaptionTransformer
from clipgen.paired.text import Text
from clipgen.shapes import two_prompts
from clipgen.shapes.draw import world
from clipgen.tokenizer.vqgan import VQGAN

SMALL = (
    "tokenizer=small_f4", "model=clipgen_tiny", "clip=shapes_gapped", "world=shapes", "transformer.width=192",
    "transformer.train.batch_size=8", "transformer.train.lr=1e-3", "trainer.threads=1", "trainer.device=cpu",
)  # fmt: skip
PAIRED, ONE = ("compare.arms=[clipgen,paired]", "compare.captions_shares=[1]"), "compare.arms=[clipgen]"
METRICS = ("judge.foreground", "judge.background", "judge.shape", "judge.all")
ARMS = ("clipgen", "plain_swap", "clip_gen_paper")
ABOUT = {"lr": 1e-3, "muon_lr": 0.02, "chosen": {"top_k": 0}, "trials": 4}


@pytest.fixture(scope="module")
def shards(tmp_path_factory, clipgen) -> Path:
    """80 drawn pictures with captions. Not to be changed."""
    folder = tmp_path_factory.mktemp("captioned")
    assert clipgen("draw", f"out={folder / 'images'}", "n=80", "captions=true").status == 0
    words = [f"images={folder / 'images'}", f"captions={folder / 'images.tsv'}", f"out={folder}", "prep.workers=1"]
    assert clipgen("prep", *words, "tokenizer=small_f4", "prep.val_fraction=0.2").status == 0
    return folder / "shards"


@dataclass(eq=False)
class Ended:
    """A process that is over."""

    returncode: int

    def poll(self) -> int:
        return self.returncode


class Machine:
    """Stands for the processes that train: what they would leave, they leave at once."""

    def __init__(self):
        self.words: list[tuple[str, ...]] = []
        self.judged: list[Path] = []  # tokenizers, by what they leave of fresh pictures
        self.failing, self.status = "nothing", 2

    def start(self, words, log):
        words = tuple(words)
        self.words.append(words)
        given = dict(word.split("=", 1) for word in words[1:] if "=" in word)
        status = self.status if self.failing in words else 0
        if not status:
            self.leave(words[0], given)
        return Ended(status)

    def leave(self, verb: str, given: dict[str, str]) -> None:
        if verb == "encode":
            path = Path(given["latents"]) / "manifest.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")
            return
        stage = given.get("stage", "paired" if given["arm"] == "paired" else "transformer")
        folder = Path(given["out"]) / stage
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "last.ckpt").write_text("weights")
        (folder / "metrics.csv").write_text("step,val/loss\n4,2.5\n9,1.5\n")
        content = {"status": "done", "seconds": 3.0, "fingerprint": " ".join(given.values()), "peak_memory_mb": 70.0}
        (folder / "stage.json").write_text(json.dumps(content))

    @property
    def trained(self) -> list[str]:
        """arm seed steps of each training of stage 2."""
        given = [dict(word.split("=", 1) for word in words[1:]) for words in self.words if words[0] == "train"]
        return [f"{each['arm']} {each['seed']}" for each in given if "stage" not in each]


class Answers:
    """Stands for trained models: marks by rule, and how often which prompts were asked."""

    asked: ClassVar[Counter] = Counter()
    trials: ClassVar[dict[str, list]] = {}

    def __init__(self, folder, stage, seed, world, sampling, load):
        self.folder, self.seed, self.world = Path(folder), seed, world
        self.arm = self.folder.parent.name

    def trial(self, settings, n):
        self.trials.setdefault(self.arm, []).append(settings)
        return settings.get("temperature", 0) - (0.5 if "lr2" in self.folder.name else 0)

    def test(self, settings, n, candidates):
        self.asked[self.folder] += 1
        right = {"clipgen": 0.9, "plain_swap": 0.6}.get(self.arm, 0.8)
        values = {name: np.full(len(self.world.prompts["test"]), right) for name in METRICS}
        values["judge.size"] = values["judge.all"] + np.where(np.arange(len(values["judge.all"])) % 4, np.nan, 0)
        return {"key": "1", "asked": settings, "values": values, "seconds": 1.0, "tokens_per_s": 100.0}

    def pictures(self):
        return np.zeros((len(self.world.prompts["test"]) * 2, 32, 32, 3), np.uint8)


@pytest.fixture
def machine(tmp_path, monkeypatch) -> Machine:
    monkeypatch.chdir(tmp_path)
    made = Machine()
    monkeypatch.setattr(steps, "start", made.start)
    monkeypatch.setattr(asking, "Asked", Answers)
    monkeypatch.setattr(build, "load_tokenizer", lambda ckpt, _: (made.judged.append(ckpt), ckpt))
    for module in (worlds.world, worlds.two):
        monkeypatch.setattr(module, "ceiling_of", lambda _: {"judge.ceiling.shape": 0.94})
    development, test = worlds.ablation_prompts()
    monkeypatch.setattr(worlds, "ablation_prompts", lambda: (development[:6], [*test[:8], *test[-8:]]))
    monkeypatch.setattr(Answers, "asked", Counter())
    monkeypatch.setattr(Answers, "trials", {})
    return made


@pytest.fixture
def unmeasured(monkeypatch) -> list:
    """Without figures of sets of pictures, which take most of the time; how often their networks would be loaded."""
    loaded = []

    class Nothing:
        metrics: ClassVar[dict] = {}
        left_out: ClassVar[dict] = {}

        def __init__(self, compared):
            loaded.append(self)

        def of(self, job, test):
            return test | {"of_sets": {}, "circular": [], "warnings": {}}

    monkeypatch.setattr(compare_pictures, "PictureFigures", Nothing)
    return loaded


@pytest.fixture
def captioner(tmp_path) -> Path:
    """An untrained one."""
    text = Text.train([caption for _, _, caption in world(100, 0)], 100)
    tokenizer = {
        "image_size": 32, "codebook_size": 16, "code_dim": 4, "channels": 32, "channel_multipliers": [1, 1, 1],
        "res_blocks": 1, "z_channels": 8, "norm_groups": 8,
    }  # fmt: skip
    paired = {"grid": [8, 8], "codebook_size": 16, "pieces": len(text), "text_length": 30, "width": 32, "depth": 1}
    settings = {"tokenizer": tokenizer, "paired": paired | {"heads": 1}}
    made = Captioner(VQGAN(**tokenizer), CaptionTransformer(**settings["paired"]), text, settings)
    made.save_pretrained(tmp_path / "captioner")
    return tmp_path / "captioner"


@pytest.fixture
def words(shards) -> list[str]:
    arms = f"compare.arms=[{','.join(ARMS)}]"
    return ["compare", "name=side", *SMALL, f"shards={shards}", arms, "compare.steps=200", "compare.trials=5"]


def found(folder: Path = Path("outputs/side")) -> dict:
    return json.loads((folder / "compare.json").read_text())


def test_each_thing_is_made_once_and_every_arm_is_asked_as_often(clipgen, machine, words):
    outcome = clipgen(*words, "compare.seeds=[0,1]")
    assert outcome.status == 0, outcome.error
    kinds = Counter((each[0], next((w for w in each if w.startswith("stage=")), "")) for each in machine.words)
    assert kinds["train", "stage=vqgan"] == 2 and kinds["encode", ""] == 2, "the paper's arm has a tokenizer of its own"
    assert {name: len(tried) for name, tried in Answers.trials.items()} == dict.fromkeys(ARMS, 5)
    assert set(Answers.asked.values()) == {1}
    assert found()["arms"]["clipgen"]["about"]["ceiling"] == {"judge.shape": 0.94} and len(machine.judged) == 2
    assert "Settings: config.yaml" in Path("outputs/side/report.html").read_text(encoding="utf-8")
    assert OmegaConf.load("outputs/side/config.yaml").compare.seeds == [0, 1]
    content = found()
    assert set(content["arms"]) == set(content["equal_images"]["arms"]) == set(ARMS) and content["seeds"] == [0, 1]
    spent = [arm["about"]["training_flops"] for arm in content["arms"].values()]
    assert max(spent) < 1.01 * min(spent), "as many FLOPs, to a batch"
    images = [arm["about"]["images_seen"] for arm in content["equal_images"]["arms"].values()]
    assert max(images) <= 1.02 * min(images)
    assert content["arms"]["clipgen"]["about"]["chosen"]["temperature"] == 1.0, "the best of the trials"
    clean = json.dumps(content)
    assert "NaN" not in clean and content["unfinished"] == []
    assert content["arms"]["plain_swap"]["fid_k.0"]["mean"] is not None and "fid_k.0" in content["metrics"]
    assert "clip.score" in content["arms"]["clipgen"]["about"]["circular"], "no other CLIP was given"
    assert {each["metric"] for each in content["differences"] if each["circular"]} == {"clip.score"}
    for paths in content["grids"]["arms"].values():
        assert all((Path("outputs/side") / path).is_file() for row in paths for path in row)


def test_pictures_are_packed_whole_at_the_size_that_the_tokenizer_has(clipgen, machine, tmp_path):
    """Of larger ones it would be trained on crops, and asked for the whole."""
    Path("mine").mkdir()
    for i in range(3):
        Image.new("RGB", (90, 72), (80 * i, 0, 0)).save(f"mine/{i}.png")
    Path("mine.tsv").write_text("file\tcaption\n0.png\ta black\n1.png\ta dark red\n2.png\ta red")
    mine = ["compare", "images=mine", "captions=mine.tsv", "trainer.device=cpu", "out=my (new) one"]
    machine.failing = "prep"
    for word, wanted in (("seed=0", 64), ("tokenizer.image_size=32", 32), ("prep.size=48", 48)):
        assert clipgen(*mine, word).status == 2
        assert [each for each in machine.words[-1] if each.startswith("prep.size=")] == [f"prep.size={wanted}"]


@pytest.mark.parametrize(("side", "more"), [(32, []), (72, ["prep.size=32"])])
def test_whole_pictures_that_were_packed_before_are_not_packed_again(clipgen, machine, words, side, more):
    Path("mine").mkdir()
    for i in range(4):
        Image.new("RGB", (side, side), (60 * i, 0, 0)).save(f"mine/{i}.png")
    own = ["images=mine", "out=side", "prep.workers=1", "tokenizer=small_f4", "trainer.device=cpu"]
    assert clipgen("prep", *own, "prep.val_fraction=0.5").status == 0
    machine.failing = "prep"
    clipgen("compare", *own, "prep.val_fraction=0.5", "compare.arms=[clipgen]")
    assert [word for word in machine.words[0] if word.startswith("prep.size=")] == more


def test_the_cost_is_that_of_the_given_tokenizer_s_tokens(clipgen, machine, unmeasured, words, tokenizer):
    words = [*words, "compare.arms=[clipgen]", "compare.equal_images=false"]
    flops = []
    for more in ([], ["tokenizer.codebook_size=128"], [tokenizer, "tokenizer.downsample=8", "out=my (new) one"]):
        assert clipgen(*words, *more).status == 0
        flops.append(found(Path("my (new) one" if tokenizer in more else "outputs/side"))["budget"]["flops"])
    assert flops[0] != flops[1] == flops[2]


def test_a_captioner_adds_a_figure_that_is_else_left_out_by_name(clipgen, machine, words, one_line, captioner):
    words = [*words, "compare.arms=[clipgen]", "compare.equal_images=false"]
    assert "compare.captioner=absent is no model folder" in one_line(clipgen(*words, "compare.captioner=absent"))
    assert not machine.words, "before anything is trained"
    assert clipgen(*words).status == 0
    why = {each["metric"]: each["why"] for each in found()["left_out"]}
    assert "compare.captioner=FOLDER" in why["caploss"] and "caploss" not in found()["arms"]["clipgen"]
    ran = len(machine.words)
    outcome = clipgen(*words, f"compare.captioner={captioner}")
    assert outcome.status == 0, outcome.error
    content, about = found(), found()["arms"]["clipgen"]["about"]
    assert content["arms"]["clipgen"]["caploss"]["n"] == 16 and "caploss" not in about["circular"]
    assert content["metrics"]["caploss"]["better"] == "lower" and len(machine.words) == ran
    assert "caploss" not in {each["metric"] for each in content["left_out"]}


def test_the_same_command_starts_nothing_again(clipgen, machine, unmeasured, words):
    assert clipgen(*words).status == 0
    ran = len(machine.words)
    assert clipgen(*words).status == 0 and len(machine.words) == ran


def test_an_arm_that_fails_is_named_and_the_others_are_reported(clipgen, machine, unmeasured, words):
    machine.failing = "arm=plain_swap"
    outcome = clipgen(*words)
    assert outcome.status == 1 and "unfinished: plain_swap, seed 0: `clipgen train" in outcome.said
    content = found()
    assert set(content["arms"]) == {"clipgen", "clip_gen_paper"} and content["unfinished"][0]["arm"] == "plain_swap"
    machine.failing = "nothing"
    assert clipgen(*words).status == 0 and not found()["unfinished"]


def test_ctrl_c_in_a_training_ends_it_and_the_same_command_continues(clipgen, machine, unmeasured, words):
    machine.failing, machine.status = "arm=plain_swap", 130
    assert clipgen(*words).status == 130 and not Path("outputs/side/compare.json").exists()
    ran = len(machine.words)
    machine.failing = "nothing"
    assert clipgen(*words).status == 0
    assert not any("stage=vqgan" in each and "arm=clipgen" in each for each in machine.words[ran:])


def test_a_report_names_the_seeds_to_come(clipgen, machine, unmeasured, words):
    machine.failing, machine.status = "seed=1", 130
    assert clipgen(*words, "compare.arms=[clipgen]", "compare.seeds=[0,1]").status == 130
    assert found()["unfinished"] == [{"arm": "every arm", "seed": 1, "why": "its turn has not come"}]


def test_learning_rates_are_tried_with_the_first_seed_and_the_best_is_kept(clipgen, machine, unmeasured, words):
    assert clipgen(*words, "compare.lr_factors=[1,2]", "compare.seeds=[3,4]", "compare.equal_images=false").status == 0
    assert len(unmeasured) == 1, "for a report after each seed"
    assert Counter(machine.trained) == {f"{arm} {seed}": 2 if seed == 3 else 1 for arm in ARMS for seed in (3, 4)}
    content = found()
    assert content["arms"]["clipgen"]["about"]["trials"] == 6 and content["arms"]["clipgen"]["about"]["lr"] == 1e-3
    assert content["arms"]["clipgen"]["about"]["muon_lr"] == 0.02
    assert content["arms"]["clipgen"]["about"]["lr_tried"] == [1e-3, 2e-3]
    assert "(the least of 2 tried)" in Path("outputs/side/report.html").read_text(encoding="utf-8")
    assert content["arms"]["clip_gen_paper"]["about"]["muon_lr"] is None and not content["unfinished"]
    assert [word for each in machine.words for word in each if word == "transformer.train.lr=0.002"]


def test_a_rate_that_is_too_high_is_a_trial_lost_and_the_arm_stays(clipgen, machine, unmeasured, words):
    machine.failing = "transformer.train.lr=0.004"
    outcome = clipgen(*words, "compare.lr_factors=[1,4]", "compare.seeds=[3,4]", "compare.equal_images=false")
    assert outcome.status == 1 and "unfinished: plain_swap at 4 times its learning rate, seed 3: " in outcome.said
    arms = found()["arms"]
    assert set(arms) == set(ARMS)
    assert arms["plain_swap"]["about"]["lr"] == 1e-3 and arms["plain_swap"]["about"]["trials"] == 6


def test_prompts_that_an_arm_cannot_read_end_no_other(clipgen, machine, unmeasured, words, monkeypatch):
    def trial(self, settings, n):
        if self.arm == "plain_swap":
            raise UserError("no letter of it")
        return 1.0

    monkeypatch.setattr(Answers, "trial", trial)
    outcome = clipgen(*words)
    assert outcome.status == 1 and "unfinished: plain_swap, seed 0: no letter of it" in outcome.said
    assert set(found()["arms"]) == {"clipgen", "clip_gen_paper"}


def test_two_at_once_in_one_folder_are_one_too_many(clipgen, machine, unmeasured, words, one_line):
    Path("outputs/side").mkdir(parents=True)
    claim = Claim(Path("outputs/side"))
    assert "outputs/side is being made by another process" in one_line(clipgen(*words)) and not machine.words
    claim.release()
    assert clipgen(*words, "compare.arms=[clipgen]").status == 0


def test_chosen_pictures_are_measured_by_the_worst_of_them_too(clipgen, machine, words, monkeypatch):
    """Which lie best first: as many of a prompt as of the other arms, of all ranks."""
    seen = []
    eight = np.arange(8, dtype=np.uint8).reshape(8, 1, 1, 1) * np.ones((32, 32, 3), np.uint8)
    monkeypatch.setattr(Answers, "pictures", lambda self: np.tile(eight, (len(self.world.prompts["test"]), 1, 1, 1)))
    measure = compare_pictures.figures_of

    def figures_of(how, samples, *rest):
        seen.append(samples.pixels_NHWC[:2, 0, 0, 0].tolist())
        return measure(how, samples, *rest)

    monkeypatch.setattr(compare_pictures, "figures_of", figures_of)
    outcome = clipgen(*words, "compare.arms=[clipgen]", "compare.test=2", "compare.equal_images=false")
    assert outcome.status == 0, outcome.error
    assert seen == [[0, 7]]


def test_what_an_earlier_comparison_chose_serves_more_seeds(clipgen, machine, unmeasured, words):
    words = [*words, "compare.equal_images=false"]
    assert clipgen(*words, "compare.lr_factors=[2,0.5]", "compare.seeds=[3]").status == 0
    earlier, ran = found(), len(machine.trained)
    Answers.trials.clear()
    chosen = "compare.chosen=outputs/side"
    outcome = clipgen(*words, "out=more", chosen, "compare.lr_factors=[2,0.5]", "compare.seeds=[4,5]")
    assert outcome.status == 0, outcome.error
    assert Counter(machine.trained[ran:]) == {f"{arm} {seed}": 1 for arm in ARMS for seed in (4, 5)}
    assert not Answers.trials
    content = found(Path("more"))
    for arm in ARMS:
        for key in ("lr", "lr_tried", "muon_lr", "chosen", "trials"):
            assert content["arms"][arm]["about"][key] == earlier["arms"][arm]["about"][key], (arm, key)
    assert content["arms"]["clipgen"]["about"]["lr"] == 5e-4
    assert "chosen by an earlier comparison" in Path("more/report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "earlier.json does not exist"),
        ("[1]", "earlier.json is no comparison: it has no arms"),
        ("{", "earlier.json is no JSON"),
        ('{"arms": {"clipgen": {"about": {}}}}', "chose nothing for plain_swap, clip_gen_paper, only for clipgen"),
        ({"clipgen": {}, "plain_swap": {}, "clip_gen_paper": {}}, "does not say how clipgen is trained"),
        ({arm: ABOUT for arm in ARMS}, "chose top_k for clipgen, whose"),
        ({arm: ABOUT | {"muon_lr": 0.03} for arm in ARMS}, "lr=0.001 and muon_lr=0.03, which are no common multiple"),
        ({arm: ABOUT | {"muon_lr": None} for arm in ARMS}, "lr=0.001 and muon_lr=None, which are no common multiple"),
    ],
)
def test_a_file_that_chose_otherwise_is_one_line(clipgen, machine, words, one_line, content, said):
    if isinstance(content, dict):
        content = json.dumps({"arms": {name: {"about": about} for name, about in content.items()}})
    if content:
        Path("earlier.json").write_text(content, encoding="utf-8")
    assert said in one_line(clipgen(*words, "compare.chosen=earlier.json")) and not machine.words


def test_side_questions_may_have_fewer_seeds(clipgen, machine, unmeasured, words, one_line):
    arms = ["compare.arms=[clipgen,paired]", "compare.captions_shares=[1,0.5]", "compare.seeds=[3,4]"]
    assert clipgen(*words, *arms, "compare.side_seeds=1").status == 0
    per_seed = Counter(machine.trained)
    assert per_seed["paired 3"] == 4, "two shares in two tables"
    assert per_seed["paired 4"] == per_seed["clipgen 4"] == 1
    content = found()
    assert {name: arm["about"]["seeds"] for name, arm in content["arms"].items()} == {
        "clipgen": [3, 4], "paired": [3, 4], "paired_50pct": [3]
    }  # fmt: skip
    assert content["equal_images"]["arms"]["paired"]["about"]["seeds"] == [3] and not content["unfinished"]
    page = Path("outputs/side/report.html").read_text(encoding="utf-8")
    assert "Of seed 3 alone." in page
    assert "Of one seed, so that the interval speaks of prompts only: paired_50pct." in page
    said = one_line(clipgen(*words, *arms, "compare.side_seeds=3"))
    assert "compare.side_seeds=3 of 2 seeds; take 1 to 2" in said


def test_bars_and_differences_speak_of_the_figures(clipgen, machine, unmeasured, words):
    assert clipgen(*words).status == 0
    content = found()
    difference = next(d for d in content["differences"] if (d["b"], d["metric"]) == ("plain_swap", "judge.all"))
    assert difference["mean"] == pytest.approx(0.3) and content["bars"][-1]["met"] is True
    assert content["bars"][0]["met"] is None, "there is no arm paired"
    assert content["curves"]["clipgen"][-1]["val_loss"] == 1.5
    asking = {name: content["metrics"][name]["n"] for name in ("judge.all", "judge.size")}
    assert asking == {"judge.all": 16 * 4, "judge.size": 4 * 4}, "a fourth of the prompts names a size"


def test_the_two_object_world_is_compared_without_bars(clipgen, machine, unmeasured, words, monkeypatch):
    few = two_prompts.development_prompts()[:4], two_prompts.test_prompts()[::20]
    monkeypatch.setattr(two_prompts, "development_prompts", lambda: few[0])
    monkeypatch.setattr(two_prompts, "test_prompts", lambda: few[1])
    assert clipgen(*words, "world=two").status == 0
    content = found()
    assert content["world"]["name"] == "two" and content["bars"] == []
    assert "What was aimed at" not in Path("outputs/side/report.html").read_text(encoding="utf-8")


def test_an_arm_of_sparse_attention_is_charged_what_it_sees(clipgen, machine, unmeasured, words):
    words = [*words, "compare.arms=[clipgen,paired]", "compare.captions_shares=[1]", "compare.equal_images=false"]
    steps = []
    for window in (0, 4):
        assert clipgen(*words, f"paired.window={window}").status == 0
        steps.append(found()["arms"]["paired"]["about"]["steps"])
    assert steps[0] < steps[1] < 1.1 * steps[0], "attention is a small part of so small a model"


def test_one_long_caption_costs_the_other_pictures_nothing(clipgen, machine, unmeasured, words, shards):
    """Texts are padded to the longest, and padding is neither attended nor trained on."""
    rows = (shards.parent / "images.tsv").read_text().splitlines()
    Path("one.tsv").write_text("\n".join([*rows, rows[-1].split("\t")[0] + "\t" + "a red circle " * 12]))
    words = [*words, "compare.arms=[clipgen,paired]", "compare.captions_shares=[1]", "compare.equal_images=false"]
    steps = []
    for more in ([], ["captions=one.tsv", "out=long"]):
        assert clipgen(*words, *more).status == 0
        steps.append(found(Path("long" if more else "outputs/side"))["arms"]["paired"]["about"]["steps"])
    assert steps[1] >= 0.98 * steps[0]


def test_guidance_in_one_pass_is_charged_for_its_second_pass(clipgen, machine, unmeasured, words):
    words = [*words, "compare.arms=[clipgen]", "compare.equal_images=false", "transformer.train.optimizer=adamw"]
    assert clipgen(*words).status == 0
    plain = found()["arms"]["clipgen"]["about"]
    gft = ["transformer.gft=true", "sampling.guidance_schedule=constant"]
    assert clipgen(*words, *gft).status == 0
    charged = found()["arms"]["clipgen"]["about"]
    assert charged["steps"] == plain["steps"]
    assert 1.3 < charged["training_flops"] / plain["training_flops"] < 1.4


def test_a_warning_stands_beside_the_figure_that_it_is_of():
    few = {"mean": 1.0, "warning": "few"}
    tables = {
        "flops": {
            "clipgen": {"cmmd": {**few, "warning": "half of it is bias"}, "fd": dict(few)},
            "paired": {"cmmd": {"mean": 9.0}, "fd": dict(few)},
        },
        "images": {},
    }
    metrics = comparison.with_warnings({"cmmd": {"n": 4}, "fd": {"n": 4}, "judge": {"n": 4}}, tables)
    assert {name: about["warning"] for name, about in metrics.items()} == {"cmmd": "", "fd": "few", "judge": ""}
    assert tables["flops"]["clipgen"] == {"cmmd": {"mean": 1.0, "warning": "half of it is bias"}, "fd": {"mean": 1.0}}
    assert tables["flops"]["paired"] == {"cmmd": {"mean": 9.0}, "fd": {"mean": 1.0}}


@pytest.mark.parametrize(("perceptual", "ckpt", "knows"), [
    ("clip", False, True), ("none", False, False), ("clip", True, True), ("none", True, False), (None, True, False),
])  # fmt: skip
def test_a_tokenizer_trained_with_a_clip_makes_its_scores_circular(perceptual, ckpt, knows, tmp_path):
    """As the record beside it says, whatever the settings of today; a published one has none."""
    vqgan = tmp_path / "vqgan"
    vqgan.mkdir()
    if perceptual:
        record = {"settings": {"tokenizer.train": {"perceptual": perceptual, "perceptual_weight": 0.5}}}
        (vqgan / "stage.json").write_text(json.dumps(record))
    cfg = OmegaConf.create({"tokenizer": {"ckpt": None, "train": {"perceptual": "clip", "perceptual_weight": 1.0}}})
    if ckpt:
        cfg.tokenizer.ckpt = str(vqgan / "last.ckpt")
    arm = arms.Arm("paired", cfg, own_tokenizer=False)
    figures = object.__new__(compare_pictures.PictureFigures)
    figures.compared = SimpleNamespace(arms={"paired": arm}, out=tmp_path)
    job = SimpleNamespace(variant=SimpleNamespace(arm="paired"))
    assert figures._tokenizer_knows_clip(job) is knows


def test_shards_that_lie_in_the_folder_of_the_comparison_are_taken_as_they_are(
    clipgen, machine, unmeasured, words, shards
):
    own = Path("outputs/side/shards")
    shutil.copytree(shards, own)
    words = [f"shards={own}" if word.startswith("shards=") else word for word in words]
    assert clipgen(*words, "compare.arms=[clipgen]", "compare.equal_images=false").status == 0


def test_captions_may_come_later_than_shards_and_of_some_images(clipgen, machine, unmeasured, words, shards, one_line):
    """What is asked for and trained on has the captions of the table, whose pictures are counted."""
    rows = (shards.parent / "images.tsv").read_text().splitlines()[1:]
    files = [row.split("\t")[0] for row in rows]
    table = [f"{file}\tthing {i}" for i, file in enumerate(files[:50])]
    Path("captions.tsv").write_text("\n".join([*table, "lost.png\tof nothing"]))
    arms = ["compare.arms=[clipgen,paired]", "compare.captions_shares=[1,0.5]", "world=null", "captions=captions.tsv"]
    outcome = clipgen(*words, *arms)
    assert outcome.status == 0, outcome.error
    made = ShardSet("outputs/side/shards", "train")
    captioned = [sample["__key__"] for sample in made if decode_captions(sample)]
    assert f"paired: {len(captioned)} of {len(made)} images, which have captions" in outcome.said
    assert "captions of 1 file match no image, the first is 'lost.png'" in outcome.said
    about = {name: arm["about"] for name, arm in found()["arms"].items()}
    assert about["paired"]["captioned_images"] == len(captioned) and about["clipgen"]["captioned_images"] == 0
    assert 0 < about["paired_50pct"]["captioned_images"] < len(captioned)
    assert f"<td>100 %, {len(captioned)} images</td>" in Path("outputs/side/report.html").read_text(encoding="utf-8")
    assert all(prompt.startswith("thing ") for prompt in found()["grids"]["prompts"])
    assert all("shards=outputs/side/shards" in each for each in machine.words)
    ran = len(machine.words)
    assert clipgen(*words, *arms).status == 0 and len(machine.words) == ran
    Path("captions.tsv").write_text("\n".join(table[:40]))
    assert "outputs/side/shards holds other pictures or captions" in one_line(clipgen(*words, *arms))


def test_prompts_that_a_clip_cuts_are_named(clipgen, machine, unmeasured, words):
    long = [f"{i} {'a red circle beside a blue ring ' * 9}" for i in range(12)]
    Path("asked.txt").write_text("\n".join(["a red circle", *long]))
    judge = f"compare.judge_model=local-dir:{Path(shapes.__file__).parent}/clip"
    outcome = clipgen(*words, "world=null", "compare.prompts_file=asked.txt", judge, "compare.arms=[clipgen]")
    assert outcome.status == 0, outcome.error
    for name in ("clip.model=", "compare.judge_model="):
        assert outcome.error.count(f"is longer than the context of {name}") == 8
    assert outcome.error.count("… and so are 4 more of 13") == 2


def test_captions_are_shared_out_as_asked_where_an_arm_uses_any(clipgen, machine, unmeasured, words):
    arms = "compare.arms=[clipgen,paired_clip]"
    assert clipgen(*words, arms, "compare.captions_shares=[1,0.5]").status == 0
    assert set(found()["arms"]) == {"clipgen", "paired_clip", "paired_clip_50pct"}
    assert "captions_share=0.5" in machine.words[-1] or "captions_share=0.5" in machine.words[-2]


def test_prompts_of_a_file_are_asked_and_no_caption(clipgen, machine, unmeasured, words):
    Path("asked.txt").write_text("a red circle\na blue ring\n\na white cross\na dot\na red circle\n")
    assert clipgen(*words, "world=null", "compare.prompts_file=asked.txt").status == 0
    assert found()["world"]["prompts"] == {"development": 2, "test": 2}
    assert found()["grids"]["prompts"] == ["a blue ring", "a dot"]


def test_a_budget_that_is_too_small_is_refused_before_anything_is_trained(clipgen, machine, words, one_line):
    said = one_line(clipgen(*words, "compare.steps=20"))
    assert "compare.steps=20 do not fit arm" in said and not machine.words


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["compare.arms=[plain_swap]"], "put it first"),
        (["compare.arms=[clipgen,clipgen]"], "each once"),
        (["compare.arms=[clipgen,paird]"], "Could not find 'arm/paird'"),
        (["compare.arm.keep=4"], "compare.arm.keep=4 is of one arm; write it into its file"),
        (["compare.trials=0"], "compare.trials=0; take at least 1"),
        (["compare.trials=1000"], "of arm clipgen are 216 ways"),
        (["captions=no.tsv"], "captions=no.tsv does not exist"),
        (["captions=sidecar"], "captions=sidecar lie beside images, and only shards are given"),
        (["world=moon"], "world=moon is unknown"),
        (["compare.captions_shares=[1,2]"], "compare.captions_shares=[1.0, 2.0]; give shares above 0"),
        (["world=null", "compare.prompts_file=no.txt"], "compare.prompts_file=no.txt cannot be read"),
        (["world=null", "compare.judge_model=local-dir:no"], "compare.judge_model=local-dir:no: there is no"),
        (["compare.judge_model=local-dir:no"], "compare.judge_model=local-dir:no: there is no"),
        (["compare.judge_model=RN50", "compare.judge_pretrained=no"], "compare.judge_pretrained=no is neither"),
        (["compare.fid_weights=no.pth"], "compare.fid_weights=no.pth does not exist"),
        (["compare.dinov2_weights=no.pth"], "compare.dinov2_weights=no.pth does not exist"),
        (["clip.model=local-dir:x", "clip.made_by=make"], "clip.model=local-dir:x is not made yet; type first: make"),
        (["compare.test=9"], "compare.test=9, but arm clip_gen_paper keeps 8 pictures of a prompt"),
        ([*PAIRED, "paired.window=60", "paired.pivots=9"], "are all 64 tokens of an image"),
        (["transformer.train.recon.weight=0.1", "compare.arms=[clipgen]"], "recon.weight=0.1 decodes pictures"),
        (["shards=nowhere"], "nowhere/manifest.json does not exist"),
        ([ONE, "transformer.train.min_level=0.95", "sampling.fidelity=0.95"], "arm clipgen could not be asked as its"),
        (["tokenizer.codebook_size=16"], "compare.arm.choices say: sampling.top_k=32 is more than the 16 codes"),
        (["compare.arms=[clipgen,paired]", "compare.captions_shares=[1,0.001]"], "in a share of 0.001; take larger"),
    ],
)
def test_what_cannot_be_compared_is_one_line(clipgen, machine, words, one_line, more, said):
    assert said in one_line(clipgen(*words, *more)) and not machine.words


def test_pictures_to_compare_with_are_missed_before_anything_is_trained(clipgen, machine, words, one_line, shards):
    own = [f"images={shards.parent / 'images'}", "out=all", "prep.val_fraction=0", "prep.workers=1"]
    assert clipgen("prep", *own, "tokenizer=small_f4").status == 0
    said = one_line(clipgen(*words, "shards=all/shards"))
    assert "all/shards has no validation pictures" in said and not machine.words


def test_arms_that_need_captions_say_how_to_add_them(clipgen, machine, words, one_line, image_folder):
    outcome = clipgen(*words, f"shards={image_folder}", "compare.arms=[clipgen,paired]")
    assert "captions=FILE.tsv" in one_line(outcome) and "compare.arms=[clipgen]" in one_line(outcome)


WHOLE = """# @package _global_
defaults:
  - compare_demo
name: whole
out: whole
tokenizer: {train: {steps: 6, batch_size: 8, warmup: 1, continuous_steps: 2, usage_window: 2}}
transformer: {width: 64, depth: 1, heads: 1, train: {batch_size: 8, warmup: 1}}
trainer: {val_every: 4, grid_every: 100, threads: 1, device: cpu}
prep: {workers: 1}
compare:
  steps: 9
  trials: 2
  tolerance: 0.1
  judge_model: local-dir:${package_dir:clipgen.shapes}/clip
  first: [[draw, "out=${out}/images", n=200, captions=true]]
"""
FEW_CANDIDATES = """# @package _global_
defaults:
  - clip_gen_paper
compare: {arm: {candidates: 3, keep: 2}}
"""


@pytest.mark.slow
def test_every_arm_from_nothing_to_the_page(clipgen_process, tmp_path):
    """With an experiment and an arm of the user's own."""
    for group, name, content in (("experiment", "whole", WHOLE), ("arm", "paper", FEW_CANDIDATES)):
        (tmp_path / "conf" / group).mkdir(parents=True)
        (tmp_path / "conf" / group / f"{name}.yaml").write_text(content, encoding="utf-8")
    arms = "compare.arms=[clipgen,plain_swap,paper,paired,paired_clip]"
    words = ["compare", "--config-dir", tmp_path / "conf", "experiment=whole", arms]
    outcome = clipgen_process(*words, folder=tmp_path, timeout=1200)
    assert outcome.status == 0, outcome.error[-2000:]
    content = found(tmp_path / "whole")
    names = {"clipgen", "plain_swap", "paper"}
    names |= {f"{arm}{share}" for arm in ("paired", "paired_clip") for share in ("", "_10pct", "_1pct")}
    assert set(content["arms"]) == names == set(content["curves"]) and not content["unfinished"]
    paired = content["arms"]["paired"]["about"]
    assert paired["steps"] < 9 and paired["captions_share"] == 1 and paired["chosen"].keys() == {
        "guidance_scale", "temperature", "top_k"
    }  # fmt: skip
    assert content["arms"]["paired_clip"]["about"]["steps"] == 9
    assert content["arms"]["clipgen"]["about"]["circular"] == []
    ceiling = content["arms"]["clipgen"]["about"]["ceiling"]
    assert 0 <= ceiling["judge.all"] <= ceiling["judge.shape"] <= 1 and "judge.held_out.all" not in ceiling
    assert (tmp_path / "whole" / "report.html").stat().st_size > 10_000
    again = clipgen_process(*words, folder=tmp_path, timeout=600)
    assert again.status == 0 and "clipgen train" not in again.said, "nothing is made twice"
