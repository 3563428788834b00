"""The settings that `clipgen VERB --help` shows: those that the verb reads, as they are typed."""

import textwrap
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

WIDTH = 116


def register() -> None:
    """Let the help of a verb say `${settings:KEY,KEY,…}`, or `${settings:}` for all."""
    OmegaConf.register_new_resolver("settings", shown, replace=True)


def shown(*keys: str, _root_: DictConfig) -> str:
    """These keys or all, a group on a line of its own; dollars are doubled, as Hydra takes help for a template."""
    everything = {key: value for key, value in OmegaConf.to_container(_root_, resolve=False).items() if key != "hydra"}
    groups: dict[str, list[str]] = {}
    for key in keys or everything:
        value: Any = everything
        for name in key.split("."):
            value = value[name]
        group = key.partition(".")[0] if isinstance(value, dict) or "." in key else ""
        groups.setdefault(group, []).extend(_typed(key, value))
    fold = textwrap.TextWrapper(
        WIDTH, initial_indent="  ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(fold.fill("  ".join(words)) for words in groups.values()).replace("$", "$$")


def _typed(key: str, value: Any) -> Iterator[str]:
    if isinstance(value, dict) and value:
        for name, below in value.items():
            yield from _typed(f"{key}.{name}", below)
    else:
        yield f"{key}={_text(value)}"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
