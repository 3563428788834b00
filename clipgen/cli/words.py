"""Which words of `clipgen sample …` are settings and which are prompts, so that a prompt works as it is typed."""

from dataclasses import fields

from clipgen.config import SampleConfig

KEYS = frozenset(field.name for field in fields(SampleConfig))
FLAGS = {
    "-m": 0, "--multirun": 0, "-h": 0, "--help": 0, "--hydra-help": 0, "--version": 0, "--resolve": 0,
    "-c": 1, "--cfg": 1, "-p": 1, "--package": 1, "-i": 1, "--info": 1, "-cd": 1, "--config-dir": 1,
}  # fmt: skip


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


def is_setting(word: str) -> bool:
    key, equals, _ = word.partition("=")
    return bool(equals) and (key in KEYS or key.startswith("hydra."))
