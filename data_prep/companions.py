"""What comes with an image: captions from a table or from the .txt beside it, the JSON that img2dataset wrote.

In a tar a text and a JSON of an image's name are part of its sample; in a folder the texts are asked for.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from clipgen.errors import UserError
from data_prep.captions import Caption, text_captions
from data_prep.decode import image_suffixes
from data_prep.ledger import Ledger
from data_prep.scan import SourceFile

_MOST_TEXT = 1 << 20  # bytes of a .txt beside an image
_STATS = re.compile(r"(.*/)?\d+_stats\.json")  # img2dataset's counts of one shard


def read(
    seen: Ledger, root: Path, captions: Mapping[str, list[str]] | Iterable[Caption] | str | None
) -> dict[str, Any]:
    """Take the captions into the ledger, and mark the files they came from; returns facts for prep.json.

    Raises UserError where captions are asked for but none belongs to a file.
    """
    given = captions is not None and captions != "sidecar"
    if given:
        seen.add_captions(_pairs(captions))
    strange, first, total = seen.strange_captions()
    if given and total and strange == total:
        example = next(seen.undecided())[1].path
        raise UserError(
            f"none of the {total} captions belongs to a file in {root}: the first is for {first!r}; "
            f"give paths relative to the image folder, such as {example!r}"
        )
    seen.add_captions(_beside(seen, root, captions == "sidecar", given))
    if captions == "sidecar":
        strange, first = _texts_alone(seen, root)
    for number, *_ in seen.beside("json", image_suffixes(), in_tars=True):
        seen.settle(number, reason="metadata", detail="comes along with the image of its name")
    facts: dict[str, Any] = {"unmatched_captions": strange}
    if first is not None:
        facts["first_unmatched_caption"] = first
    if failed := _failed_rows(seen, root):
        facts["img2dataset_failed_rows"] = failed
    return facts


def _texts_alone(seen: Ledger, root: Path) -> tuple[int, str | None]:
    """How many texts in folders stand beside no image, and the first; UserError where none stands beside one."""
    alone = seen.paths("txt", in_tars=False)
    first = next(alone, None)
    count = sum(1 for _ in alone) + (first is not None)
    if not seen.count("reason = 'caption'"):
        found = f"none of the {count} .txt files (the first is {first!r}) stands" if count else "no .txt file stands"
        raise UserError(
            f"captions=sidecar: {found} beside an image of its name in {root}; put bird.txt beside bird.jpg, or leave "
            "captions= out"
        )
    return count, first


def _pairs(captions: Mapping[str, list[str]] | Iterable[Caption]) -> Iterator[Caption]:
    if isinstance(captions, Mapping):
        yield from ((path, text) for path, texts in captions.items() for text in texts)
    else:
        yield from captions


def _beside(seen: Ledger, root: Path, folders: bool, given: bool) -> Iterator[Caption]:
    """Captions from texts beside images: in tars where no table was given, in folders where they are wanted."""
    for number, text, image in seen.beside("txt", image_suffixes()):
        if (text.tar is None and not folders) or text.bytes > _MOST_TEXT:
            continue
        seen.settle(number, reason="caption", detail="comes along with the image of its name")
        if text.tar is not None and given:
            continue
        data = text.read(root)
        if text.tar is not None:  # scraped by the million: one bad byte is no reason to stop
            data = data.decode("utf-8", "replace").encode()
        for caption in text_captions(data, str(root / text.path)):
            yield image, caption


def origin(seen: Ledger, image: SourceFile) -> SourceFile | None:
    """The JSON of an image that lies in a tar."""
    return seen.sibling(image, "json") if image.tar is not None else None


def _failed_rows(seen: Ledger, root: Path) -> int:
    """How many rows img2dataset could not download or resize, by its own counts."""
    failed = 0
    for path in seen.paths("json", in_tars=False):
        if _STATS.fullmatch(path):
            try:
                stats = json.loads((root / path).read_text(encoding="utf-8"))
                failed += int(stats["count"]) - int(stats["successes"])
            except (OSError, ValueError, KeyError, TypeError):
                continue
    return failed
