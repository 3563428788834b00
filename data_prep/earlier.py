"""An output folder as earlier runs left it, held against what is asked for and what is seen now."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from clipgen.data.atomic import TEMPORARY, explained, write_json
from clipgen.data.manifest import FILE_NAME, Manifest, describe_difference
from clipgen.errors import UserError
from data_prep import ledger
from data_prep.chunk import NOTES, SPLITS
from data_prep.duplicates import altered
from data_prep.ledger import Ledger

_STARTED = ".prep.json"


def earlier(out: Path, prep: dict[str, Any], replace: bool, say: Callable[[str], object]) -> Manifest | None:
    """The manifest of earlier runs with these settings, or none; UserError where it is of others."""
    if not Manifest.exists(out):
        return None
    manifest = Manifest.load(out, "images")
    made = manifest.made_by.get("prep", {})
    if made != prep:
        difference = ", ".join(describe_difference({"prep": made}, {"prep": prep}))
        if replace:
            say(f"prep: makes {out} again, since {difference}")
            return None
        raise UserError(
            f"shards={out} was made with other settings ({difference}); give another folder, or replace=true"
        )
    if not replace:
        manifest.check(out)
    if problems := manifest.problems(out):
        say(f"prep: makes {out} again, since {problems[0]}")
        return None
    return manifest


def recall(seen: Ledger, old: Manifest, out: Path, root: Path, workers: int, check: bool) -> tuple[str, int]:
    """Take in what became of the files of earlier runs; with `check` they are read again and must have the same bytes.

    Returns what of the packed ones is not as it was, in words, and how many others do not hold: these are new again.
    """
    changed, stale = seen.recall(out / ledger.FILE_NAME, old.facts["seen"])
    if check:
        for number, path, packed in list(altered(seen, root, workers)):
            if packed:
                changed.append(path)
            else:
                seen.renew(number)
                stale += 1
    if changed:
        files = f"{len(changed)} of the packed images are" if len(changed) > 1 else "a packed image is"
        return f"{files} gone or changed, the first is {changed[0]!r}", stale
    if recaptioned := seen.recaptioned():
        return f"captions changed for {len(recaptioned)} packed images, the first is {recaptioned[0]!r}", stale
    return "", stale


def start(out: Path, prep: dict[str, Any], old: Manifest | None, replace: bool) -> None:
    """Mark `out` as being packed; what is no part of an earlier run has no manifest from here on."""
    ours = Manifest.exists(out) or (out / _STARTED).exists() or replace
    if not ours and (strangers := shard_files(out)):
        raise UserError(
            f"shards={out} holds {strangers[0].name} but no manifest; give an empty folder, or replace=true"
        )
    with explained(out):
        write_json(out / _STARTED, prep)
        if old is None:
            (out / FILE_NAME).unlink(missing_ok=True)


def shard_files(out: Path) -> list[Path]:
    """Every file with the name of an image shard, whether a manifest has it or not."""
    return sorted(path for split in SPLITS for path in out.glob(f"{split}-" + "[0-9]" * 6 + ".tar"))


def sweep(out: Path) -> None:
    """Take away what a run leaves for its own continuation."""
    with explained(out):
        for pattern in (NOTES, _STARTED, TEMPORARY):
            for path in out.glob(pattern):
                path.unlink(missing_ok=True)
