"""What a command tells a person while it works."""

import sys
from collections.abc import Sequence

NAMED = 8  # of texts that are cut


def say(line: str) -> None:
    """Print a line at once, also into a file or a pipe."""
    print(line, flush=True)


def say_cut(clip, texts: Sequence[str], name: str = "this CLIP") -> None:
    """Name the texts of which a CLIP sees only the beginning, the first of very many."""
    cut = clip.too_long(texts)
    for text in cut[:NAMED]:
        print(f'"{text[:40]}…" is longer than the context of {name}; what goes beyond is cut', file=sys.stderr)
    if len(cut) > NAMED:
        print(f"… and so are {len(cut) - NAMED:,} more of {len(texts):,}", file=sys.stderr)
