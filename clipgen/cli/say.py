"""What a command tells a person while it works."""

import sys
from collections.abc import Sequence


def say(line: str) -> None:
    """Print a line at once, also into a file or a pipe."""
    print(line, flush=True)


def say_cut(clip, texts: Sequence[str], name: str = "this CLIP") -> None:
    """Name the texts of which a CLIP sees only the beginning."""
    for text in clip.too_long(texts):
        print(f'"{text[:40]}…" is longer than the context of {name}; what goes beyond is cut', file=sys.stderr)
