"""Keep only pictures that are like given words: their CLIP score is read off by a callable that is handed in.

Scores are kept in notes as they come, so that a killed run does not ask the network again.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from clipgen.data.atomic import fingerprint, write_json
from data_prep.convert import read_file
from data_prep.decode import SetAside, read
from data_prep.ledger import UNDECIDED, Ledger
from data_prep.scan import SourceFile
from data_prep.settings import PackSettings

Score = Callable[[Sequence[Image.Image]], Sequence[float]]  # pictures → the highest cosine of each with the words

_AT_ONCE = 64
_SIDE = 336  # pixels: no CLIP looks at more


def settle_unlike(seen: Ledger, root: Path, out: Path, settings: PackSettings, score: Score, name: str) -> None:
    """Set aside, as `clip_score`, new files that score under the settings' `clip_score`; `name` tells CLIPs apart."""
    with tqdm(total=seen.count(UNDECIDED), desc="asking CLIP", unit=" files") as bar:
        for place, batch in enumerate(seen.batches(_AT_ONCE)):
            scores = _scores(out / f".chunk-score-{place:06d}.json", [f for _, f in batch], root, settings, score, name)
            for (number, _), value in zip(batch, scores, strict=True):
                if value is not None and value < settings.clip_score:
                    detail = f"{value:.3f} is under {settings.clip_score:g}"
                    seen.settle(number, reason="clip_score", detail=detail)
            bar.update(len(batch))


def _scores(
    note: Path, files: list[SourceFile], root: Path, settings: PackSettings, score: Score, name: str
) -> list[float | None]:
    mark = fingerprint([name, list(settings.clip_words), [[file.path, file.bytes] for file in files]])
    try:
        content = json.loads(note.read_text())
        if content["fingerprint"] == mark:
            return content["scores"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    pictures = [_picture(root, file, settings) for file in files]
    found = iter(score([picture for picture in pictures if picture is not None]))
    scores = [round(float(next(found)), 4) if picture is not None else None for picture in pictures]
    write_json(note, {"fingerprint": mark, "scores": scores})
    return scores


def _picture(root: Path, file: SourceFile, settings: PackSettings) -> Image.Image | None:
    """A square to look at; none where the file is no picture, which is told when it is converted."""
    try:
        data = read_file(root, file)
        image = read(data, settings.max_pixels, settings.background, _SIDE, settings.formats).image
    except SetAside:
        return None
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
