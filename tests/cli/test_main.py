"""The console script: help that a person can read, and one line for everything that a person can mend."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.errors import ConfigCompositionException

from clipgen.check import check
from clipgen.check.tokenizer import PERCEPTUAL_FILES
from clipgen.cli.main import TOOLS, VERBS, reported
from clipgen.config import Config, complete, register
from clipgen.errors import UserError
from clipgen.tools import SCHEMAS

CONF = Path(__file__).parents[2] / "conf"
HEAVY = ("torch", "pytorch_lightning", "open_clip", "taming", "webdataset", "tensorboard", "PIL", "numpy")

# A public key is not renamed or taken away without a line in CHANGELOG.
KEYS = {
    "run": "name out images captions captions_share shards latents stage task experiment world prompts seed "
    "bank replace prep clip tokenizer transformer paired encode executor sampling trainer metric "
    "direction compare",
    "sample": "model prompts image mix negative mask candidates keep rerank captioner upscale out n seed "
    "guidance_scale guidance_schedule temperature top_k top_p min_p clusters prefix_boost fidelity bridge precision "
    "compile batch_size device",
    "caption": "model image n seed temperature top_k top_p out device",
    "evaluate": "model shards world prompts split n seed guidance_scale guidance_schedule temperature top_k top_p "
    "min_p clusters prefix_boost fidelity bridge precision compile batch_size out device "
    "stage name run tokenizer val_samples perturb_prob perturb_neighbours perceptual perceptual_weights fid_weights "
    "dinov2_weights captioner nearest clip",
    "upscale": "model image out seed temperature top_k top_p min_p precision device",
    "draw": "out world n seed image_size captions left_out style style_share",
    "gap": "latents captions templates clip bank out device",
    "export": "name run latents out stage task bank clip sampling tokenizer transformer",
    "verify": "shards latents repair images captions tokenizer device",
    "browse": "shards latents out n split tokenizer device",
    "report": "run",
}


# What `--help` of a verb leaves out of the settings that it shares with a run: those that are not its own.
FOREIGN = {
    "run": "compare captions_share paired",
    "prep": "latents stage tokenizer transformer paired encode sampling metric direction compare",
    "encode": "images stage prep transformer paired sampling metric direction compare",
    "train": "images prep encode executor compare",
    "compare": "stage replace prompts prep encode executor transformer sampling metric direction",
}


def composed(verb: str, *overrides: str):
    register()
    with initialize_config_module("clipgen.conf.tools" if verb in TOOLS else "clipgen.conf", version_base="1.3"):
        return compose(verb, list(overrides))


# Help

PROBE = """
import contextlib, io, sys
from clipgen.cli.main import main
known = sys.argv[1].split(",")
for words in ([], *([verb] for verb in sys.argv[2:])):
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        try:
            main([*words, "--help"])
        except SystemExit as end:
            assert not end.code, (words, end.code)
    heavy = [name for name in known if name in sys.modules]
    assert not heavy, (words, heavy)
    print(said.getvalue(), end="\\0")
"""


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    """What `clipgen VERB --help` prints, for each verb, with a check that it loads nothing heavy."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", PROBE, ",".join(HEAVY), *VERBS]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return dict(zip(["", *VERBS], done.stdout.split("\0"), strict=False))


def test_help_lists_the_verbs(helps):
    assert all(f"  {verb} " in helps[""] for verb in VERBS)
    assert "clipgen run images=FOLDER name=NAME" in helps[""]


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_is_readable(helps, verb):
    text = helps[verb]
    assert text.startswith(f"clipgen {verb}"), text
    head, _, settings = text.partition("\nSettings (change any with key=value):\n")
    assert 3 < head.count("\n") < 25 and max(map(len, text.splitlines())) <= 120
    assert text.count("\n") < (72 if verb in ("run", "train") else 48), "more than a screen or two"
    assert "Hydra" not in head and "Powered by" not in text and "$$" not in text
    shown = {word.partition("=")[0] for word in settings.split()}
    groups = {key.partition(".")[0] for key in shown}
    if verb in FOREIGN:
        assert not groups & set(FOREIGN[verb].split())
        groups |= set(KEYS["run"].split())
    assert groups == set(KEYS.get(verb, KEYS["run"]).split())
    changed = [word for word in settings.split() if not re.search(r"=(null$|\?\?\?$|\[|\{)", word)]
    composed(verb, *changed)  # each can be typed as it is shown


def test_importing_clipgen_loads_nothing_heavy():
    probe = f"import sys, clipgen; sys.exit(str([m for m in {HEAVY} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["help"], ["--version"]])
def test_help_and_version_are_no_errors(clipgen, words):
    outcome = clipgen(*words)
    assert outcome.status == 0 and outcome.said.startswith("clipgen") and not outcome.error


def test_no_word_at_all_shows_the_help(clipgen):
    outcome = clipgen()
    assert outcome.status == 2 and "clipgen run images=FOLDER" in outcome.said


# Verbs and keys


@pytest.mark.parametrize("typed, meant", [("rnu", "run"), ("smaple", "sample"), ("trian", "train")])
def test_an_unknown_verb_suggests_the_near_one(clipgen, one_line, typed, meant):
    assert f"do you mean {meant}?" in one_line(clipgen(typed, "images=x"))


def test_a_verb_unlike_any_suggests_none(clipgen, one_line):
    line = one_line(clipgen("frobnicate"))
    assert "do you mean" not in line and "clipgen --help" in line


@pytest.mark.parametrize(
    "words, says",
    [
        (["run", "imagess=x"], "'imagess'"),
        (["run", "tokenizer.stepps=3"], "'stepps' not in 'Tokenizer'"),
        (["run", "+images_dir=x"], "'images_dir'"),
        (["train", "transformer.train.learning_rate=1"], "'learning_rate'"),
        (["prep", "prep.sizes=1"], "'sizes'"),
        (["encode", "encode.crop=2"], "'crop'"),
        (["export", "runn=x"], "'runn'"),
        (["draw", "number=3"], "'number'"),
        (["verify", "shard=x"], "'shard'"),
        (["evaluate", "modell=x"], "'modell'"),
        (["report", "folder=x"], "'folder'"),
        (["run", "tokenizer.train.steps=many"], "'many'"),
        (["run", "seed=null"], "seed"),
        (["run", "tokenizer=small_f5"], "small_f4"),
        (["run", "clip=clip"], "vit_b32_openai"),
        (["run", "experiment=absent"], "demo"),
        (["run", "images"], "'images'"),
        (["run", "images=[1"], "[1"),
        (["run", "images=a,b"], "images=a,b"),
        (["run", "--images=x"], "--images=x"),
        (["run", "out=${nowhere}", "images=x"], "nowhere"),
        (["run", "--config-dir", "/nowhere"], "/nowhere"),
        (["run"], "images is not set"),
        (["verify"], "shards"),
        (["train"], "stage"),
        (["train", "stage=decoder"], "stage=decoder"),
        (["train", "stage=vqgan", "shards=nowhere"], "nowhere/manifest.json does not exist"),
        (["train", "stage=transformer", "latents=nowhere"], "nowhere/manifest.json does not exist"),
        (["draw", "out=x", "n=0"], "n=0"),
        (["draw", "out=x", "style=ink"], "style=ink is unknown; take style=outline"),
        (["draw", "out=x", "style=outline", "world=two"], "style=outline has captions that name everything"),
        (["draw", "out=x", "style=outline", "style_share=2"], "style_share=2 is the share"),
        (["upscale", "image=x"], "model"),
        (["report", "run=nowhere"], "nowhere"),
        (["export", "run=nowhere", "clip=shapes"], "nowhere"),
        (["evaluate", "model=x"], "world=shapes"),
        (["run", "images=x", "trainer.device=tpu"], "device=tpu"),
    ],
)
def test_a_mistake_is_one_line(clipgen, one_line, tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    assert says in one_line(clipgen(*words))
    assert not list(tmp_path.iterdir()), "something was written"


@pytest.mark.parametrize(
    "text, says",
    [
        ("tokenizer: {image_sizes: 32}", "image_sizes"),
        ("steps: 3", "steps"),
        ("trainer: {threads: many}", "many"),
        ("transformer:\n  train: {lrr: 1}", "lrr"),
        ("a: [", "bad.yaml"),
    ],
)
def test_a_mistake_in_an_experiment_file_is_one_line(clipgen, one_line, tmp_path, text, says):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "bad.yaml").write_text(f"# @package _global_\n{text}\n")
    line = one_line(clipgen("run", "images=x", "--config-dir", tmp_path, "experiment=bad"))
    assert says in line


def test_an_experiment_file_of_ones_own_works(clipgen, tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nname: mine\ntokenizer: {image_size: 64}\n")
    outcome = clipgen("run", "experiment=mine", "--config-dir", tmp_path, "--cfg", "job", "seed=5")
    assert outcome.status == 0, outcome.error
    assert "name: mine" in outcome.said and "image_size: 64" in outcome.said and "seed: 5" in outcome.said


# The composed configs


@pytest.mark.parametrize("verb", VERBS)
def test_the_keys_are_frozen(verb):
    assert sorted(composed(verb)) == sorted(KEYS.get(verb, KEYS["run"]).split())


def test_every_schema_has_a_command():
    assert {f"{verb}_schema" for verb in KEYS} == {"run_schema", *SCHEMAS}


def typed(path: Path) -> list[str]:
    """What a preset leaves to its user: the stage that it is for, the file of a perceptual network."""
    asks = any(f"perceptual: {kind}" in path.read_text(encoding="utf-8") for kind in PERCEPTUAL_FILES)
    own = ["stage=paired"] if path.stem.startswith("cogview_") and path.parent.name == "model" else []
    return [*own, "tokenizer.train.perceptual_weights=weights.pth"] if asks else own


@pytest.mark.parametrize("path", sorted((CONF / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_composes(path):
    cfg = complete(composed("run", f"experiment={path.stem}", *typed(path)))
    check(cfg)
    assert cfg.name == path.stem
    opening = path.read_text(encoding="utf-8").partition("defaults:")[0]
    assert "clipgen " in opening, "it opens with the command that runs it"


@pytest.mark.parametrize(
    "choice",
    [
        f"{folder.name}={path.stem}"
        for folder in (CONF / "tokenizer", CONF / "recipe", CONF / "model", CONF / "clip")
        for path in sorted(folder.glob("*.yaml"))
    ],
)
def test_every_group_file_composes(choice):
    stage = ["stage=paired"] if choice.startswith("model=cogview") else []
    cfg = complete(composed("run", choice, *stage, *typed(CONF / f"{choice.replace('=', '/')}.yaml")))
    check(cfg)
    assert isinstance(cfg.clip.model, str)


def test_an_unknown_key_in_code_is_an_error_too():
    with pytest.raises(ConfigCompositionException):
        composed("run", "tokenizer.codebook=3")


def test_run_folders_are_stable_and_follow_the_name():
    cfg = complete(composed("run", "name=birds"))
    assert (cfg.out, cfg.shards, cfg.latents) == ("outputs/birds", "outputs/birds/shards", "outputs/birds/latents")
    cfg = complete(composed("run", "out=/x/y"))
    assert (cfg.shards, cfg.latents) == ("/x/y/shards", "/x/y/latents")
    assert complete(Config(name="plain")).name == "plain"


# Errors while it runs


def refused(problem: BaseException, capsys) -> tuple[int, str]:
    with pytest.raises(SystemExit) as end, reported():
        raise problem
    return end.value.code, capsys.readouterr().err


def test_what_a_user_can_mend_is_one_line(capsys):
    assert refused(UserError("a file\nis broken"), capsys) == (2, "clipgen: error: a file is broken\n")


def test_a_full_disk_says_so(capsys):
    status, line = refused(OSError(errno.ENOSPC, "No space left on device", "a/last.ckpt"), capsys)
    assert status == 2 and "a/last.ckpt: the disk is full" in line and line.count("\n") == 1


def test_a_keyboard_interrupt_says_how_to_go_on(capsys):
    status, line = refused(KeyboardInterrupt(), capsys)
    assert status == 130 and "the same command again continues" in line


def test_a_defect_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError), reported():
        _ = 1 / 0
    with pytest.raises(FileNotFoundError), reported():
        raise FileNotFoundError(errno.ENOENT, "missing", "x")


@pytest.mark.parametrize("verb", ["draw", "prep"])
def test_a_disk_that_fills_up_leaves_nothing_half_written(clipgen, one_line, pictures, tmp_path, monkeypatch, verb):
    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("clipgen.data.atomic._flush", full)
    out = tmp_path / "out"
    words = [f"out={out}", "n=3"] if verb == "draw" else [f"images={pictures}", f"shards={out}", "prep.workers=1"]
    line = one_line(clipgen(verb, *words))
    assert "the disk is full" in line and str(out) in line
    assert not [path for path in out.glob("*") if path.suffix in (".json", ".tar", ".jsonl")]
    assert not list(out.rglob(".*tmp*"))


@pytest.mark.parametrize("flags", [[], ["-m"]])
def test_a_setting_that_cannot_be_read_is_told_with_the_mend(clipgen, one_line, flags):
    line = one_line(clipgen("run", *flags, "images=x", "experiment=größe(1"))
    assert """experiment=größe(1 cannot be read as a setting; quote its value, as in "experiment='größe(1'\"""" in line
