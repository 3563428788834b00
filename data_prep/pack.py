"""A folder of images → image shards, restartable and with the same bytes whatever the number of processes.

The sorted list of files is cut into chunks; a chunk becomes at most one train shard and one val shard and leaves a
note, so that a killed run continues after its last whole chunk. The manifest comes last and replaces the notes.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import PIL

from clipgen.data.atomic import TEMPORARY, explained, fingerprint, replacing, write_json
from clipgen.data.manifest import FILE_NAME, Manifest, Shard, describe_difference
from clipgen.data.sample import Sample, sample_key
from clipgen.data.shards import shard_name, write_shard
from clipgen.errors import UserError
from data_prep.captions import Captions
from data_prep.convert import PackSettings, convert
from data_prep.decode import SetAside
from data_prep.executor import LOCAL, Executor, Tick, run
from data_prep.scan import Listing, SourceFile, scan

QUARANTINE = "quarantine.jsonl"
FEW = 20  # from this many images on, one is kept for validation

_STARTED = ".prep.json"
_SPLITS = ("train", "val")


@dataclass(frozen=True)
class _Chunk:
    """One unit of work: everything a process needs to make the shards of some files."""

    number: int
    files: list[SourceFile]
    root: Path
    out: Path
    settings: PackSettings
    fingerprint: str
    threshold: int  # content hashes below it go to the validation split
    captions: Captions

    @property
    def note(self) -> Path:
        return self.out / f".chunk-{self.number:06d}.json"


@dataclass
class _Note:
    """What a chunk became. `lowest` and `highest` are the extremes of the content hashes of its samples."""

    fingerprint: str
    threshold: int
    shards: list[Shard] = field(default_factory=list)
    set_aside: list[dict[str, str]] = field(default_factory=list)
    pixels: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_SPLITS, 0))
    shortest_side: int | None = None
    captioned: int = 0
    lowest: int | None = None
    highest: int | None = None

    @classmethod
    def read(cls, path: Path) -> "_Note | None":
        try:
            content = json.loads(path.read_text())
            return cls(**content | {"shards": [Shard(**shard) for shard in content["shards"]]})
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return None

    @property
    def samples(self) -> int:
        return sum(shard.samples for shard in self.shards)

    def of_split(self, split: str) -> int:
        return sum(shard.samples for shard in self.shards if shard.split == split)


def pack(
    images: str | Path,
    shards: str | Path,
    settings: PackSettings | None = None,
    workers: int = 1,
    captions: Captions | None = None,
    replace: bool = False,
    executor: Executor = LOCAL,
) -> Manifest:
    """Pack a folder of images into shards and return their manifest; what is already done is not done again.

    `workers` are processes of this machine, unless `executor` is elsewhere. `captions` maps the path of a file below
    `images` to its captions. Files that cannot be used are listed in quarantine.jsonl beside the shards. Raises
    UserError for a folder without usable images, one where more than `max_bad_fraction` are broken, an output inside
    the input, a full disk, and for an output that was made with other settings or has lost a shard, unless `replace`.
    """
    settings, out = settings or PackSettings(), Path(shards)
    if out.resolve().is_relative_to(Path(images).resolve()):
        raise UserError(
            f"shards={out} lies inside images={images}, so it would be packed next time; give another folder"
        )
    listing = scan(images)
    captions = _matching(captions or {}, listing)
    made_by = _made_by(settings, listing, captions)
    if (finished := _finished(out, made_by, replace)) is not None:
        return finished
    _start(out, made_by, replace)

    def chunks(threshold: int) -> Iterator[_Chunk]:
        step = settings.samples_per_shard
        for number, first in enumerate(range(0, len(listing.files), step)):
            files = listing.files[first : first + step]
            own = {file.path: captions[file.path] for file in files if file.path in captions}
            yield _Chunk(number, files, listing.root, out, settings, made_by["fingerprint"], threshold, own)

    threshold = int(settings.val_fraction * 2**64)
    _make([c for c in chunks(threshold) if not _is_made(c)], workers, len(listing.files), executor)
    notes = [_Note.read(chunk.note) for chunk in chunks(threshold)]
    if (moved := _threshold_with_both_splits(notes, threshold)) != threshold:
        # very few images: chance left a split empty, so a picture moves and its chunks are made again
        again = [c for c, note in zip(chunks(moved), notes, strict=True) if _changes(note, threshold, moved)]
        _make(again, workers, sum(len(chunk.files) for chunk in again), executor)
        notes = [_Note.read(chunk.note) for chunk in chunks(moved)]
    return _finish(out, listing, settings, made_by, notes)


def _made_by(settings: PackSettings, listing: Listing, captions: Captions) -> dict[str, Any]:
    prep = asdict(settings)
    del prep["max_bad_fraction"]  # it decides whether there is a result, not what it is
    made_by = {
        "prep": prep,
        "images": {
            "files": len(listing.files),
            "bytes": sum(file.bytes for file in listing.files),
            "listing": fingerprint([[file.path, file.bytes] for file in listing.files]),
        },
        "captions": fingerprint(captions) if captions else None,
    }
    return made_by | {"fingerprint": fingerprint(made_by)}


def _matching(captions: Captions, listing: Listing) -> Captions:
    matching = {file.path: captions[file.path] for file in listing.files if file.path in captions}
    if captions and not matching:
        raise UserError(
            f"none of the {len(captions)} captions belongs to a file in {listing.root}: the first is for "
            f"{next(iter(captions))!r}; give paths relative to the image folder, such as {listing.files[0].path!r}"
        )
    return matching


def _finished(out: Path, made_by: dict[str, Any], replace: bool) -> Manifest | None:
    if not Manifest.exists(out):
        return None
    manifest = Manifest.load(out, "images")
    if manifest.made_by.get("fingerprint") == made_by["fingerprint"]:
        if not replace:
            manifest.check(out)
        if manifest.problems(out):
            return None
        _sweep(out)
        return manifest
    if not replace:
        difference = ", ".join(describe_difference(manifest.made_by, made_by))
        raise UserError(
            f"shards={out} was made with other input or settings ({difference}); give another folder, or replace=true"
        )
    return None


def _start(out: Path, made_by: dict[str, Any], replace: bool) -> None:
    """Mark `out` as being packed; from here on it has no manifest."""
    ours = Manifest.exists(out) or (out / _STARTED).exists() or replace
    if not ours and (strangers := _shard_files(out)):
        raise UserError(
            f"shards={out} holds {strangers[0].name} but no manifest; give an empty folder, or replace=true"
        )
    with explained(out):
        write_json(out / _STARTED, made_by)
        (out / FILE_NAME).unlink(missing_ok=True)


def _shard_files(out: Path) -> list[Path]:
    return sorted(path for split in _SPLITS for path in out.glob(f"{split}-" + "[0-9]" * 6 + ".tar"))


def _is_made(chunk: _Chunk) -> bool:
    note = _Note.read(chunk.note)
    return (
        note is not None
        and (note.fingerprint, note.threshold) == (chunk.fingerprint, chunk.threshold)
        and not Manifest("images", note.shards).problems(chunk.out)
    )


def _make(chunks: list[_Chunk], workers: int, total: int, executor: Executor) -> None:
    if chunks:
        to_do = sum(len(chunk.files) for chunk in chunks)
        run(_make_chunk, chunks, workers, "packing images", total, total - to_do, executor)


def _make_chunk(chunk: _Chunk, tick: Tick) -> None:
    note = _Note(chunk.fingerprint, chunk.threshold)
    val: list[Sample] = []
    train = write_shard(chunk.out / shard_name("train", chunk.number), _train_samples(chunk, note, val, tick))
    for shard in (train, write_shard(chunk.out / shard_name("val", chunk.number), val)):
        if shard.samples:
            note.shards.append(shard)
        else:
            (chunk.out / shard.name).unlink()
    write_json(chunk.note, asdict(note))


def _train_samples(chunk: _Chunk, note: _Note, val: list[Sample], tick: Tick) -> Iterator[Sample]:
    """Yield the training samples of a chunk, one at a time; put the few others into `val`, all counts into `note`."""
    for place, file in enumerate(chunk.files):
        key = sample_key(chunk.number * chunk.settings.samples_per_shard + place)
        try:
            sample, digest, size = convert(key, chunk.root, file, chunk.settings, chunk.captions.get(file.path))
        except SetAside as reason:
            note.set_aside.append({"file": file.path, "reason": reason.reason, "detail": reason.detail})
        else:
            content = int(digest[:16], 16)
            split = "val" if content < chunk.threshold else "train"
            note.pixels[split] += size[0] * size[1]
            note.shortest_side = min(*size, note.shortest_side or min(size))
            note.captioned += file.path in chunk.captions
            note.lowest = content if note.lowest is None else min(content, note.lowest)
            note.highest = content if note.highest is None else max(content, note.highest)
            if split == "val":
                val.append(sample)
            else:
                yield sample
        tick()


def _threshold_with_both_splits(notes: list[_Note], threshold: int) -> int:
    """The threshold nearest to the given one that leaves a training sample, and with FEW samples one to validate."""
    lows = [note.lowest for note in notes if note.lowest is not None]
    highs = [note.highest for note in notes if note.highest is not None]
    if not lows:
        return threshold
    if max(highs) < threshold:
        return max(highs)
    if 0 < threshold <= min(lows) < max(highs) and sum(note.samples for note in notes) >= FEW:
        return min(lows) + 1
    return threshold


def _changes(note: _Note, threshold: int, moved: int) -> bool:
    if note.lowest is None or note.highest is None:
        return False
    return note.lowest < moved if moved > threshold else note.highest >= moved


def _finish(out: Path, listing: Listing, settings: PackSettings, made_by: dict, notes: list[_Note]) -> Manifest:
    """Write the quarantine list, take away what is left of unfinished runs, and write the manifest."""
    with replacing(out / QUARANTINE) as temporary, open(temporary, "w", encoding="ascii") as lines:
        for note in notes:
            lines.writelines(json.dumps(line) + "\n" for line in note.set_aside)
    set_aside = Counter(line["reason"] for note in notes for line in note.set_aside)
    _stop_when_too_many_are_bad(out, listing, settings, notes, set_aside)
    shortest = [note.shortest_side for note in notes if note.shortest_side is not None]
    facts = {
        "seen": len(listing.files),
        "written": sum(note.samples for note in notes),
        "set_aside": dict(sorted(set_aside.items())),
        "hidden": listing.hidden,
        "links": listing.links,
        "captioned": sum(note.captioned for note in notes),
        "pixels": {split: sum(note.pixels[split] for note in notes) for split in _SPLITS},
        "shortest_side": min(shortest),
        "pillow": PIL.__version__,
    }
    shards = sorted((shard for note in notes for shard in note.shards), key=lambda shard: shard.name)
    manifest = Manifest("images", shards, made_by, facts)
    kept = {shard.name for shard in shards}
    with explained(out):
        for path in [path for path in _shard_files(out) if path.name not in kept]:
            path.unlink()
    manifest.save(out)
    _sweep(out)
    return manifest


def _sweep(out: Path) -> None:
    with explained(out):
        for pattern in (".chunk-*.json", _STARTED, TEMPORARY):
            for path in out.glob(pattern):
                path.unlink(missing_ok=True)


def _stop_when_too_many_are_bad(
    out: Path, listing: Listing, settings: PackSettings, notes: list[_Note], set_aside: Counter[str]
) -> None:
    # a text file among images is no broken image
    bad = set_aside.total() - set_aside["format"]
    seen = len(listing.files) - set_aside["format"]
    written = sum(note.samples for note in notes)
    if written and bad <= settings.max_bad_fraction * seen:
        return
    reason = max((r for r in set_aside if r != "format"), key=lambda r: set_aside[r], default="format")
    first = next(line for note in notes for line in note.set_aside if line["reason"] == reason)
    raise UserError(
        f"images={listing.root}: {bad} of {seen} images cannot be used, mostly as {reason}, the first is "
        f"{first['file']!r} ({' '.join(first['detail'].split())}); {out / QUARANTINE} lists all. "
        + (f"Mend them, or raise prep.max_bad_fraction above {settings.max_bad_fraction}" if written else "Mend them")
    )
