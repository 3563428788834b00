"""A folder of images → image shards, restartable and with the same bytes whatever the number of processes.

The files that are new, sorted by path, are cut into chunks; a chunk becomes at most one train shard and one val shard
and leaves a note, so that a killed run continues after its last whole chunk. The manifest comes last and replaces the
notes. Files that are added later become an addition: chunks of their own, after those that are there.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import PIL

from clipgen.data.atomic import explained, fingerprint, write_json
from clipgen.data.manifest import Manifest, Shard
from clipgen.errors import UserError
from data_prep import companions, ledger, report
from data_prep.chunk import SPLITS, Chunk, Note, Task, make_chunk
from data_prep.duplicates import settle_copies
from data_prep.earlier import earlier, recall, shard_files, start, sweep
from data_prep.executor import LOCAL, Executor, run
from data_prep.ledger import Ledger
from data_prep.near import settle_near
from data_prep.relevance import Score, settle_unlike
from data_prep.scan import PassedOver, require_images, walk
from data_prep.settings import PackSettings
from data_prep.split import Extremes, threshold_of, with_both_sides

QUARANTINE = "quarantine.jsonl"
COUNTS = "prep.json"
REPORT = "prep_report.html"
NOT_BROKEN = (
    "caption",
    "clip_score",
    "format",
    "hidden",
    "metadata",
    "special",
)  # what is set aside, but is no image gone bad

Captions = Mapping[str, list[str]] | Iterable[tuple[str, str]]


@dataclass
class _Total:
    """The sums over the notes of chunks, read one after another."""

    shards: list[Shard] = field(default_factory=list)
    chunks: int = 0
    formats: Counter[str] = field(default_factory=Counter)
    sides: Counter[str] = field(default_factory=Counter)
    pixels: Counter[str] = field(default_factory=Counter)
    captioned: int = 0
    shortest_side: int | None = None
    threshold: int = 0

    @classmethod
    def of(cls, manifest: Manifest | None, threshold: int) -> "_Total":
        if manifest is None:
            return cls(threshold=threshold)
        facts = manifest.facts
        counters = {name: Counter(facts[name]) for name in ("formats", "sides", "pixels")}
        others = {name: facts[name] for name in ("chunks", "captioned", "shortest_side", "threshold")}
        return cls(list(manifest.shards), **counters, **others)

    def add(self, note: Note) -> None:
        self.shards += note.shards
        self.chunks += 1
        self.formats.update(note.formats)
        self.sides.update(note.sides)
        self.pixels.update(note.pixels)
        self.captioned += note.captioned
        if note.shortest_side is not None:
            self.shortest_side = min(note.shortest_side, self.shortest_side or note.shortest_side)


@dataclass(frozen=True)
class _Place:
    """From where to where, and how."""

    images: Path
    out: Path
    settings: PackSettings
    workers: int
    executor: Executor
    clip: str | None  # which CLIP decides on what is kept

    @property
    def prep(self) -> dict[str, Any]:
        settings = asdict(self.settings) | ({"clip": self.clip} if self.clip else {})
        del settings["max_bad_fraction"]  # it decides whether there is a result, not what it is
        if settings["caption"] is None:  # as it is of shards of before
            del settings["caption"]
        return settings


def pack(
    images: str | Path,
    shards: str | Path,
    settings: PackSettings | None = None,
    workers: int = 1,
    captions: Captions | str | None = None,
    replace: bool = False,
    check: bool = False,
    clip: tuple[Score, str] | None = None,
    executor: Executor = LOCAL,
    say: Callable[[str], object] = lambda line: None,
) -> Manifest:
    """Pack a folder of images into shards and return their manifest; what is already done is not done again.

    `workers` are processes of this machine, unless `executor` is elsewhere. `captions` maps the path of a file below
    `images` to its captions, or gives pairs of both, or is "sidecar" for the .txt beside each image. `clip` scores
    pictures by `clip_words`, with a name of what does so. Images that are new since the last time go to new shards.
    `say` is told why shards are made again. What was seen and what became of it stands in prep.json, files.jsonl,
    quarantine.jsonl and prep_report.html beside the shards. A file packed before is known again by its path and size,
    and with `check` by its bytes. Raises UserError for a folder without usable images, one where more than
    `max_bad_fraction` are broken, an output inside the input, a full disk, captions of which none belongs to an image,
    and, unless `replace`, for an output that was made with other settings, has lost a shard, or whose images or
    captions have changed since.
    """
    began = time.perf_counter()
    place = _Place(
        Path(images).resolve(), Path(shards), settings or PackSettings(), workers, executor, clip and clip[1]
    )
    if place.out.resolve().is_relative_to(place.images):
        raise UserError(
            f"shards={shards} lies inside images={images}, so it would be packed next time; give another folder"
        )
    if place.settings.clip_words and clip is None:
        raise UserError("prep.clip_words needs a CLIP to ask; say `clipgen prep`, or hand one in")
    require_images(images)
    old = earlier(place.out, place.prep, replace, say)
    with ledger.told():
        seen, over = Ledger(), PassedOver()
        seen.add(walk(images, over))
        facts = {"links": over.links, "special": over.special, **companions.read(seen, place.images, captions)}
        if old is not None:
            changed, stale = recall(seen, old, place.out, place.images, workers, check)
            if changed and not replace:
                raise UserError(f"shards={shards}: {changed}; bring back what was there, or take replace=true")
            if changed:
                say(f"prep: makes {shards} again, since {changed}")
                seen.forget()
                old = None
            elif not stale and not seen.count("old = 0"):
                sweep(place.out)
                return old
        start(place.out, place.prep, old, replace)
        if place.settings.deduplicate:
            settle_copies(seen, place.images, workers)
        if place.settings.near_duplicates is not None:
            settle_near(seen, place.images, place.out, place.settings, workers, executor)
        if clip is not None:
            settle_unlike(seen, place.images, place.out, place.settings, *clip)
        total = _make_chunks(place, seen, old)
        return _finish(place, seen, old, total, facts, began)


def _make_chunks(place: _Place, seen: Ledger, old: Manifest | None) -> _Total:
    """Make what is not made yet, and write into the ledger what became of each file."""
    total = _Total.of(old, threshold_of(place.settings.val_fraction))
    first = total.chunks
    files = seen.count(ledger.UNDECIDED)
    chunks = _make(place, _lists(place, seen), first, total.threshold, files, lambda number: True)
    if old is None:
        moved = with_both_sides([Extremes.of(chunk) for chunk in chunks], total.threshold)
        if moved != total.threshold:
            # very few images: chance left a split empty, so a picture moves and its chunks are made again
            changing = {c.number for c in chunks if Extremes.of(c).change_sides(total.threshold, moved)}
            _make(place, _lists(place, seen), first, moved, files, changing.__contains__)
            total.threshold = moved
    for chunk in chunks:
        note = Note.read(chunk.note)
        for entry in note.files:
            seen.settle(entry.pop("file"), **entry)
        total.add(note)
    seen.set_copies_aside()
    return total


def _make(
    place: _Place,
    lists: Iterator[list[Task]],
    first: int,
    threshold: int,
    files: int,
    wanted: Callable[[int], bool],
) -> list[Chunk]:
    """Make those chunks of `lists` that are wanted and not made; all of them are returned."""
    chunks, missing = [], []
    prep = fingerprint(place.prep)
    for number, tasks in enumerate(lists, first):
        lines = [task.line() for task in tasks]
        mark = fingerprint([prep, lines])
        chunk = Chunk(number, len(tasks), place.images, place.out, place.settings, mark, threshold)
        chunks.append(chunk)
        if wanted(number) and not chunk.is_made():
            chunk.write_list(lines)
            missing.append(chunk)
    if missing:
        to_do = sum(chunk.files for chunk in missing)
        run(make_chunk, missing, place.workers, "packing images", files, files - to_do, place.executor)
    return chunks


def _lists(place: _Place, seen: Ledger) -> Iterator[list[Task]]:
    """The undecided files by path, as many as go into a shard at a time."""
    tasks: list[Task] = []
    size, most = 0, place.settings.source_bytes_per_shard
    for _, file in seen.undecided():
        if tasks and (len(tasks) == place.settings.samples_per_shard or (most and size + file.bytes > most)):
            yield tasks
            tasks, size = [], 0
        tasks.append(Task(file, place.settings.captions(seen.captions_of(file.path)), companions.origin(seen, file)))
        size += file.bytes
    if tasks:
        yield tasks


def _finish(
    place: _Place, seen: Ledger, old: Manifest | None, total: _Total, facts: dict[str, Any], began: float
) -> Manifest:
    """Write what became of every file, take away what is left of unfinished runs, and write the manifest."""
    out = place.out
    with explained(out):
        seen.save_set_aside(out / QUARANTINE)
        _stop_when_too_many_are_bad(place, seen)
        seen.save(out / ledger.FILE_NAME)
    counts = {
        "seen": seen.count(),
        "written": seen.count("key IS NOT NULL"),
        "duplicates": seen.count("copy_of IS NOT NULL"),
        "set_aside": seen.set_aside(),
    }
    facts = counts | facts | {
        "captioned": total.captioned,
        "pixels": {split: total.pixels[split] for split in SPLITS},
        "formats": dict(sorted(total.formats.items())),
        "sides": dict(sorted(total.sides.items(), key=lambda side: int(side[0]))),
        "shortest_side": total.shortest_side,
        "chunks": total.chunks,
        "threshold": total.threshold,
        "pillow": PIL.__version__,
    }  # fmt: skip
    addition = seen.addition()
    additions = old.made_by["additions"] if old else []
    if addition["files"]:  # none where files that were not packed are gone
        additions = [*additions, addition]
    made_by = {"prep": place.prep, "additions": additions}
    manifest = Manifest("images", total.shards, made_by | {"fingerprint": fingerprint(made_by)}, facts)
    manifest.shards.sort(key=lambda shard: shard.name)
    write_json(out / COUNTS, facts | {"samples": {split: manifest.samples(split) for split in SPLITS}})
    kept = {shard.name for shard in manifest.shards}
    with explained(out):
        for path in shard_files(out):
            if path.name not in kept:
                path.unlink()
    seconds = time.perf_counter() - began
    report.write(out / REPORT, manifest, out, place.images, seen, addition["files"], seconds)
    manifest.save(out)
    sweep(out)
    return manifest


def _stop_when_too_many_are_bad(place: _Place, seen: Ledger) -> None:
    reasons = {name: count for name, count in seen.set_aside().items() if name not in NOT_BROKEN}
    bad, written, most = sum(reasons.values()), seen.count("key IS NOT NULL"), place.settings.max_bad_fraction
    if written and bad <= most * (bad + written):
        return
    mend = f"Mend them, or raise prep.max_bad_fraction above {most}" if written else "Mend them"
    if not bad:  # nothing is broken, but nothing is wanted either
        reasons, mend = seen.set_aside(), "Ask for less, with prep.formats or prep.clip_score"
        bad = sum(reasons.values())
    reason = max(reasons, key=lambda name: reasons[name])
    first = next(seen.examples(reason, 1))
    raise UserError(
        f"images={place.images}: {bad} of {bad + written} images cannot be used, mostly as {reason}, the first is "
        f"{first.path!r} ({' '.join(first.detail.split())}); {place.out / QUARANTINE} lists all. {mend}"
    )
