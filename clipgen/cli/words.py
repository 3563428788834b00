"""Which words of a command line are flags, settings, or (of `clipgen sample …`) prompts, taken as they are typed."""

import re
from dataclasses import fields
from pathlib import Path

from clipgen.errors import UserError
from clipgen.tools import SampleConfig

KEYS = frozenset(field.name for field in fields(SampleConfig))
FLAGS = {
    "-m": 0, "--multirun": 0, "-h": 0, "--help": 0, "--hydra-help": 0, "--version": 0, "--resolve": 0,
    "-c": 1, "--cfg": 1, "-p": 1, "--package": 1, "-i": 1, "--info": 1, "-cd": 1, "--config-dir": 1,
    "-cn": 1, "--config-name": 1,
}  # fmt: skip
LOOKS = {"-m", "--multirun", "-h", "--help", "--hydra-help", "-c", "--cfg", "-i", "--info"}
# Settings whose value is a file, a folder, a name or a text: they may hold what Hydra's grammar keeps for itself.
PATHS = frozenset(
    {
        "images", "captions", "shards", "latents", "out", "run", "name", "model", "prompts", "image", "mix", "mask",
        "captioner", "upscale", "negative", "templates", "hydra.run.dir", "prep.caption",
        "clip.model", "clip.pretrained", "clip.captions", "tokenizer.ckpt", "tokenizer.ckpt_config", "transformer.ckpt",
        "perceptual_weights", "fid_weights", "dinov2_weights", "tokenizer.train.perceptual_weights",
        "compare.captioner", "compare.fid_weights", "compare.dinov2_weights", "compare.chosen", "compare.prompts_file",
        "compare.judge_model", "compare.judge_pretrained",
    }
)  # fmt: skip


def split_words(words: list[str]) -> tuple[list[str], list[str]]:
    """(settings, prompts): a word is a setting when a known key stands before its `=`, after `--` none is."""
    settings, prompts = [], []
    left = iter(words)
    for word in left:
        if word == "--":
            prompts.extend(left)
        elif word in FLAGS:
            settings.append(word)
            settings.extend(value for _, value in zip(range(FLAGS[word]), left, strict=False))
        elif is_setting(word):
            settings.append(word)
        else:
            prompts.append(word)
    return settings, prompts


def for_hydra(words: list[str]) -> list[str]:
    """Flags first, as argparse takes settings in one piece only; in a sweep, jobs are named by what is swept."""
    flags, settings = [], []
    left = iter(words)
    for word in left:
        if not word.startswith("-"):
            settings.append(word)
            continue
        name, equals, _ = word.partition("=")
        if name not in FLAGS:
            raise UserError(f"{word} is no option; a setting is typed as key=value, such as name=birds")
        flags.append(word)
        flags.extend(value for _, value in zip(range(0 if equals else FLAGS[name]), left, strict=False))
    if sweeps(settings) and not {flag.partition("=")[0] for flag in flags} & LOOKS:
        flags.append("-m")  # a saved sweep is asked for by its name
    swept = sweeps(flags)
    settings = [quoted(setting, swept) for setting in settings]
    if swept:
        settings.append(f"hydra.job.config.override_dirname.exclude_keys=[{','.join(fixed_keys(settings))}]")
    return flags + settings


def sweeps(words: list[str]) -> bool:
    """Whether these words ask for a sweep."""
    if "hydra.mode=RUN" in words:  # a job of one
        return False
    return any(word in ("-m", "--multirun") or re.fullmatch("sweep=(?!null$).+", word) for word in words)


def named_folder(words: list[str]) -> list[str]:
    """`report FOLDER` as `report run=FOLDER`; the folder of a job has an equals sign in its name."""
    found, values = [], 0  # a flag's values are no folders
    for word in words:
        is_setting = word.startswith("-") or (re.match(r"[\w.]+=", word) and not Path(word).is_dir())
        found.append(word if values or is_setting else f"run={word}")
        values = values - 1 if values else FLAGS.get(word, 0)
    return found


def quoted(setting: str, swept: bool = False) -> str:
    """A path as it is typed: quoted where it has a comma, an equals sign, brackets or the like.

    In a sweep a comma parts several values, and `choice(…)` and its like are several too.
    """
    key, _, value = setting.partition("=")
    if swept and ("," in value or re.match(r"\w+\(", value)):
        return setting
    if key == "prompts" and value.startswith("["):  # the list of a run, not the file of `sample`
        return setting
    if key not in PATHS or "${" in value or value[:1] in ("'", '"') or re.fullmatch(r"[A-Za-z0-9_./~@+-]*", value):
        return setting
    # Hydra reads a backslash as one only before a quote
    escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + found[2].replace("'", "\\'"), value)
    return f"{key}='{escaped}'"


def fixed_keys(settings: list[str]) -> list[str]:
    """The keys, quoted, that are the same in all jobs of a sweep."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    swept: dict[str, bool] = {}  # a key that is typed twice is what it is the last time
    for override in OverridesParser.create().parse_overrides(settings):
        swept[override.get_key_element()] = override.is_sweep_override()
    return [f"'{key}'" for key, several in swept.items() if not several]


def is_setting(word: str) -> bool:
    key, equals, _ = word.partition("=")
    return bool(equals) and (key in KEYS or key.startswith("hydra."))
