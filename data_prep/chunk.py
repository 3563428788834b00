"""One unit of work: a list of files → at most one train and one val shard, and a note of what became of each file.

The list is a file too, so that a job is small whatever it is about; the note is written last.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from clipgen.data.atomic import replacing, write_json
from clipgen.data.manifest import Manifest, Shard
from clipgen.data.sample import Sample, sample_key
from clipgen.data.shards import shard_name, write_shard
from data_prep.convert import Converted, convert
from data_prep.decode import SetAside
from data_prep.heap import keep_freed_memory
from data_prep.scan import SourceFile
from data_prep.settings import PackSettings

SPLITS = ("train", "val")
NOTES = ".chunk-*"


@dataclass(frozen=True)
class Task:
    """A file to convert, with its captions and the JSON beside it, if any."""

    file: SourceFile
    captions: list[str]
    origin: SourceFile | None

    def line(self) -> str:
        return json.dumps([_place(self.file), self.captions, self.origin and _place(self.origin)]) + "\n"

    @classmethod
    def of(cls, line: str) -> "Task":
        file, captions, origin = json.loads(line)
        return cls(SourceFile(*file), captions, SourceFile(*origin) if origin else None)


def _place(file: SourceFile) -> list[Any]:
    return [file.path, file.bytes, file.tar, file.offset]


@dataclass(frozen=True)
class Chunk:
    """What a process needs to make the shards of some files; `files` is how many."""

    number: int
    files: int
    root: Path
    out: Path
    settings: PackSettings
    fingerprint: str  # of the settings and of every line of the list
    threshold: int  # content hashes below it go to the validation split

    @property
    def files_path(self) -> Path:
        return self.out / f".chunk-{self.number:06d}.jsonl"

    @property
    def note(self) -> Path:
        return self.out / f".chunk-{self.number:06d}.json"

    def is_made(self) -> bool:
        """Whether the shards of this very chunk are there."""
        note = Note.read(self.note)
        return (
            note is not None
            and (note.fingerprint, note.threshold) == (self.fingerprint, self.threshold)
            and not Manifest("images", note.shards).problems(self.out)
        )

    def write_list(self, lines: list[str]) -> None:
        with replacing(self.files_path) as temporary:
            temporary.write_text("".join(lines), encoding="ascii")


@dataclass
class Note:
    """What a chunk became. `lowest` and `highest` are the extremes of the content hashes of its samples.

    `sides` counts pictures by their shorter side, rounded down to a power of two.
    """

    fingerprint: str
    threshold: int
    shards: list[Shard] = field(default_factory=list)
    files: list[dict[str, Any]] = field(default_factory=list)
    pixels: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    formats: dict[str, int] = field(default_factory=dict)
    sides: dict[str, int] = field(default_factory=dict)
    shortest_side: int | None = None
    captioned: int = 0
    lowest: int | None = None
    highest: int | None = None

    @classmethod
    def read(cls, path: Path) -> "Note | None":
        try:
            content = json.loads(path.read_text())
            return cls(**content | {"shards": [Shard(**shard) for shard in content["shards"]]})
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return None

    @property
    def samples(self) -> int:
        return sum(shard.samples for shard in self.shards)

    def take(self, task: Task, made: Converted, split: str, content: int) -> None:
        self.files.append({"file": task.file.path, "sha256": made.sha256, "key": made.sample["__key__"]})
        self.pixels[split] += made.size[0] * made.size[1]
        side = str(1 << min(made.original).bit_length() - 1)
        self.formats[made.format] = self.formats.get(made.format, 0) + 1
        self.sides[side] = self.sides.get(side, 0) + 1
        self.shortest_side = min(*made.size, self.shortest_side or min(made.size))
        self.captioned += bool(task.captions)
        self.lowest = content if self.lowest is None else min(content, self.lowest)
        self.highest = content if self.highest is None else max(content, self.highest)


def make_chunk(chunk: Chunk, tick) -> None:
    """Write the shards of a chunk and then its note; `tick` is called after each file."""
    keep_freed_memory()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a picture is too small to share, and each process has its core
    try:
        note, val = Note(chunk.fingerprint, chunk.threshold), []
        train = write_shard(chunk.out / shard_name("train", chunk.number), _train_samples(chunk, note, val, tick))
        for shard in (train, write_shard(chunk.out / shard_name("val", chunk.number), val)):
            if shard.samples:
                note.shards.append(shard)
            else:
                (chunk.out / shard.name).unlink()
        write_json(chunk.note, asdict(note))
    finally:
        torch.set_num_threads(threads)


def _train_samples(chunk: Chunk, note: Note, val: list[Sample], tick) -> Iterator[Sample]:
    """Yield the training samples of a chunk, one at a time; put the few others into `val`, all counts into `note`."""
    with open(chunk.files_path, encoding="ascii") as lines:
        for place, task in enumerate(map(Task.of, lines)):
            key = sample_key(chunk.number * chunk.settings.samples_per_shard + place)
            try:
                made = convert(key, chunk.root, task.file, chunk.settings, task.captions, task.origin)
            except SetAside as why:
                note.files.append({"file": task.file.path, "reason": why.reason, "detail": why.detail})
            else:
                content = int(made.sha256[:16], 16)
                split = "val" if content < chunk.threshold else "train"
                note.take(task, made, split, content)
                if split == "val":
                    val.append(made.sample)
                else:
                    yield made.sample
            tick()
