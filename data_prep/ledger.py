"""What is known of every file seen, on disk: memory does not grow with their number.

`files.jsonl` beside the shards keeps it from run to run, a line a file, in the order of additions and then of paths.
While a run works the same stands in a private SQLite file that vanishes with the process.
"""

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from clipgen.data.atomic import replacing
from clipgen.data.sample import sample_key
from clipgen.errors import UserError
from data_prep.scan import SourceFile

FILE_NAME = "files.jsonl"

_TABLES = """
CREATE TABLE files (
    id INTEGER PRIMARY KEY, path BLOB UNIQUE, stem BLOB, suffix TEXT, bytes INTEGER, tar BLOB, offset INTEGER,
    old INTEGER DEFAULT 0, reason TEXT, detail TEXT, sha256 TEXT, hash TEXT, key TEXT, copy_of BLOB
);
CREATE TABLE captions (path BLOB, place INTEGER, text TEXT);
CREATE TABLE kept (path BLOB, line TEXT);
"""
UNDECIDED = "old = 0 AND reason IS NULL AND copy_of IS NULL"


class Ledger:
    """The files seen: those of earlier runs (`old`) and new ones, each with what became of it."""

    def __init__(self) -> None:
        self.db = sqlite3.connect("", isolation_level=None)  # no name: a private file, removed by the system
        self.db.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;" + _TABLES + "BEGIN;")

    def add(self, files: Iterable[SourceFile]) -> None:
        """Take in what a walk sees; a name that a tar holds twice is told apart by its place."""
        insert = (
            "INSERT OR IGNORE INTO files (path, stem, suffix, bytes, tar, offset, reason, detail) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
        )
        for file in files:
            stem, _, suffix = file.path.rpartition(".")
            row = (_blob(stem), suffix.lower() if stem else "", file.bytes, _blob(file.tar), file.offset)
            if not self.db.execute(insert, (_blob(file.path), *row, file.reason, _text(file.detail))).rowcount:
                again = _blob(f"{file.path}@{file.offset}")
                self.db.execute(insert, (again, *row, file.reason, _text(file.detail)))
        self.db.execute("CREATE INDEX by_bytes ON files (bytes)")
        self.db.execute("CREATE INDEX by_stem ON files (stem)")

    def count(self, condition: str = "1", values: Iterable[Any] = ()) -> int:
        """How many files meet a condition."""
        return self.db.execute(f"SELECT count(*) FROM files WHERE {condition}", tuple(values)).fetchone()[0]

    def recall(self, lines: Path, count: int) -> tuple[list[str], int]:
        """Take in the first `count` lines of an earlier run.

        Returns the paths that were written and are gone or have another size since, and how many other lines no longer
        hold: those files are new again.
        """
        changed, stale, read = [], 0, 0
        try:
            with open(lines, encoding="ascii") as kept:
                for line in islice(kept, count):
                    entry, read = json.loads(line), read + 1
                    values = [entry.get(name) for name in ("reason", "detail", "sha256", "hash", "key")]
                    found = self.db.execute(
                        "UPDATE files SET old = 1, reason = ?, detail = ?, sha256 = ?, hash = ?, key = ?, copy_of = ? "
                        "WHERE path = ? AND bytes = ?",
                        (*values, _blob(entry.get("duplicate_of")), _blob(entry["file"]), entry["bytes"]),
                    )
                    if found.rowcount:
                        self.db.execute("INSERT INTO kept VALUES (?, ?)", (_blob(entry["file"]), line))
                    elif "key" in entry:
                        changed.append(entry["file"])
                    else:
                        stale += 1
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{lines} cannot be read ({type(error).__name__}: {error}); take replace=true") from error
        if read < count:
            raise UserError(f"{lines} has {read} lines of {count} that its manifest tells of; take replace=true")
        return changed, stale

    def forget(self) -> None:
        """All files are new again; what was told by their names or their tar stays."""
        by_name = "reason IN ('hidden', 'special', 'caption', 'metadata') OR detail LIKE 'tar: %'"
        self.db.execute(
            "UPDATE files SET old = 0, key = NULL, sha256 = NULL, hash = NULL, copy_of = NULL, "
            f"reason = CASE WHEN {by_name} THEN reason END WHERE old"
        )
        self.db.execute("DELETE FROM kept")

    def undecided(self, after: str = "") -> Iterator[tuple[int, SourceFile]]:
        """New files of which nothing is known yet, by path, from behind one."""
        columns = "id, path, bytes, tar, offset"
        where = f"{UNDECIDED} AND path > ?"
        rows = self.db.execute(f"SELECT {columns} FROM files WHERE {where} ORDER BY path", (_blob(after),))
        for number, path, size, tar, offset in rows:
            yield number, SourceFile(_name(path), size, _name(tar), offset)

    def packed(self, first: int, last: int) -> Iterator[tuple[str, SourceFile]]:
        """The files of earlier runs whose samples have a key from `first` to before `last`: key and file, by key."""
        rows = self.db.execute(
            "SELECT key, path, bytes, tar, offset FROM files WHERE old AND key >= ? AND key < ? ORDER BY key",
            (sample_key(first), sample_key(last)),
        )
        for key, path, size, tar, offset in rows:
            yield key, SourceFile(_name(path), size, _name(tar), offset)

    def batches(self, most: int) -> Iterator[list[tuple[int, SourceFile]]]:
        """The undecided, `most` at a time; what is settled meanwhile does not disturb."""
        after = ""
        while batch := list(islice(self.undecided(after), most)):
            yield batch
            after = batch[-1][1].path

    def same_size_as_another(self) -> Iterator[tuple[int, SourceFile]]:
        """Those of the undecided that could be equal to a file seen earlier or now, and have no sha256 yet."""
        rows = self.db.execute(
            f"SELECT id, path, bytes, tar, offset FROM files f WHERE {UNDECIDED} AND sha256 IS NULL "
            "AND EXISTS (SELECT 1 FROM files o WHERE o.bytes = f.bytes AND o.id != f.id) ORDER BY path"
        )
        for number, path, size, tar, offset in rows:
            yield number, SourceFile(_name(path), size, _name(tar), offset)

    def hashed_earlier(self) -> Iterator[tuple[int, SourceFile, str, bool]]:
        """The files of earlier runs whose bytes are known: number, file, sha256 and whether they were packed."""
        columns = "id, path, bytes, tar, offset, sha256, key IS NOT NULL"
        rows = self.db.execute(f"SELECT {columns} FROM files WHERE old = 1 AND sha256 IS NOT NULL ORDER BY path")
        for number, path, size, tar, offset, sha256, packed in rows:
            yield number, SourceFile(_name(path), size, _name(tar), offset), sha256, bool(packed)

    def renew(self, number: int) -> None:
        """Take a file of an earlier run, which was not packed, for a new one."""
        self.db.execute("DELETE FROM kept WHERE path = (SELECT path FROM files WHERE id = ?)", (number,))
        self.db.execute(
            "UPDATE files SET old = 0, sha256 = NULL, hash = NULL, copy_of = NULL, reason = NULL, detail = NULL "
            "WHERE id = ?",
            (number,),
        )

    def settle(self, file: int | str, **values: Any) -> None:
        """Write down what became of a file, by its number or path."""
        names = ", ".join(f"{name} = ?" for name in values)
        where, key = ("id", file) if isinstance(file, int) else ("path", _blob(file))
        self.db.execute(f"UPDATE files SET {names} WHERE {where} = ?", (*values.values(), key))

    def set_copies_aside(self) -> None:
        """What is equal to a file that was set aside is set aside for the same reason."""
        first = "(SELECT {} FROM files o WHERE o.path = files.copy_of)"
        self.db.execute(
            f"UPDATE files SET reason = {first.format('reason')}, detail = {first.format('detail')} "
            "WHERE old = 0 AND copy_of IS NOT NULL"
        )
        self.db.execute("UPDATE files SET copy_of = NULL WHERE reason IS NOT NULL")

    def new_lines(self) -> Iterator[dict[str, Any]]:
        """What became of the new files, by path, as it goes into files.jsonl and quarantine.jsonl."""
        rows = self.db.execute(
            "SELECT path, bytes, sha256, hash, key, copy_of, reason, detail FROM files WHERE old = 0 ORDER BY path"
        )
        for path, size, sha256, near, key, copy_of, reason, detail in rows:
            line = {"file": _name(path), "bytes": size, "sha256": sha256, "hash": near, "key": key}
            line |= {"duplicate_of": _name(copy_of), "reason": reason, "detail": detail if reason else None}
            line["captions"] = self.caption_mark(path)
            yield {name: value for name, value in line.items() if value is not None}

    def save(self, path: Path) -> None:
        """Write files.jsonl: the lines of earlier runs as they were, then the new files, by path."""
        with replacing(path) as temporary, open(temporary, "w", encoding="ascii") as out:
            out.writelines(line for (line,) in self.db.execute("SELECT line FROM kept ORDER BY rowid"))
            out.writelines(json.dumps(line) + "\n" for line in self.new_lines())

    def save_set_aside(self, path: Path) -> None:
        """Write quarantine.jsonl: a line with path, reason and detail for every file set aside, by path."""
        rows = self.db.execute("SELECT path, reason, detail FROM files WHERE reason IS NOT NULL ORDER BY path")
        with replacing(path) as temporary, open(temporary, "w", encoding="ascii") as out:
            for name, reason, detail in rows:
                out.write(json.dumps({"file": _name(name), "reason": reason, "detail": detail}) + "\n")

    def set_aside(self) -> dict[str, int]:
        """How many files were set aside, by reason."""
        rows = self.db.execute(
            "SELECT reason, count(*) FROM files WHERE reason IS NOT NULL GROUP BY reason ORDER BY reason"
        )
        return dict(rows.fetchall())

    # Captions

    def add_captions(self, captions: Iterable[tuple[str, str]]) -> None:
        """Take in pairs of path and caption, in their order."""
        for place, (path, text) in enumerate(captions):
            self.db.execute("INSERT INTO captions VALUES (?, ?, ?)", (_blob(path), place, text))
        self.db.execute("CREATE INDEX IF NOT EXISTS captions_by_path ON captions (path, place)")

    def captions_of(self, path: str | bytes) -> list[str]:
        """The captions of a file, in the order they were given."""
        rows = self.db.execute("SELECT text FROM captions WHERE path = ? ORDER BY place", (_blob(path),))
        return [text for (text,) in rows]

    def caption_mark(self, path: str | bytes) -> str | None:
        """A short name for the captions of a file, to tell whether they changed."""
        captions = self.captions_of(path)
        return hashlib.sha256("\n".join(captions).encode()).hexdigest()[:8] if captions else None

    def strange_captions(self) -> tuple[int, str | None, int]:
        """How many captioned paths are no file here, the first of these, and how many paths are captioned."""
        strange = "path NOT IN (SELECT path FROM files)"
        count = self.db.execute(f"SELECT count(DISTINCT path) FROM captions WHERE {strange}").fetchone()[0]
        first = self.db.execute(f"SELECT path FROM captions WHERE {strange} ORDER BY place LIMIT 1").fetchone()
        total = self.db.execute("SELECT count(DISTINCT path) FROM captions").fetchone()[0]
        return count, _name(first[0]) if first else None, total

    def recaptioned(self) -> list[str]:
        """Files of earlier runs whose captions are not what they were."""
        rows = self.db.execute("SELECT path, line FROM kept ORDER BY path")
        return [_name(path) for path, line in rows if self.caption_mark(path) != json.loads(line).get("captions")]

    def beside(
        self, suffix: str, images: tuple[str, ...], in_tars: bool = False
    ) -> Iterator[tuple[int, SourceFile, str]]:
        """Files with a suffix that share their name with an image: number, file, path of the image."""
        marks = ", ".join("?" * len(images))
        rows = self.db.execute(
            "SELECT t.id, t.path, t.bytes, t.tar, t.offset, i.path FROM files t "
            "JOIN files i ON i.stem = t.stem AND i.tar IS t.tar "
            f"WHERE t.suffix = ? AND t.reason IS NULL AND i.reason IS NULL AND i.suffix IN ({marks}) "
            f"{'AND t.tar IS NOT NULL' if in_tars else ''} ORDER BY t.path, i.path",
            (suffix, *images),
        )
        for number, path, size, tar, offset, image in rows:
            yield number, SourceFile(_name(path), size, _name(tar), offset), _name(image)

    def sibling(self, file: SourceFile, suffix: str) -> SourceFile | None:
        """The file of the same name with another suffix."""
        row = self.db.execute(
            "SELECT path, bytes, tar, offset FROM files WHERE stem = ? AND suffix = ? AND tar IS ? LIMIT 1",
            (_blob(file.path.rpartition(".")[0]), suffix, _blob(file.tar)),
        ).fetchone()
        return SourceFile(_name(row[0]), row[1], _name(row[2]), row[3]) if row else None

    def paths(self, suffix: str, in_tars: bool) -> Iterator[str]:
        """Paths of files with a suffix, in folders or in tars, of which nothing is known yet."""
        where = f"suffix = ? AND tar IS {'NOT ' if in_tars else ''}NULL AND reason IS NULL"
        for (path,) in self.db.execute(f"SELECT path FROM files WHERE {where} ORDER BY path", (suffix,)):
            yield _name(path)

    def examples(self, reason: str, most: int) -> Iterator[SourceFile]:
        """The first files that were set aside for a reason."""
        columns = "path, bytes, tar, offset, reason, detail"
        rows = self.db.execute(f"SELECT {columns} FROM files WHERE reason = ? ORDER BY path LIMIT ?", (reason, most))
        for path, size, tar, offset, why, detail in rows:
            yield SourceFile(_name(path), size, _name(tar), offset, why, detail)

    def copies(self, most: int) -> Iterator[tuple[SourceFile, str]]:
        """The first duplicates, each with the path of the picture that stands for it."""
        columns = "path, bytes, tar, offset, copy_of"
        rows = self.db.execute(f"SELECT {columns} FROM files WHERE copy_of IS NOT NULL ORDER BY path LIMIT ?", (most,))
        for path, size, tar, offset, first in rows:
            yield SourceFile(_name(path), size, _name(tar), offset), _name(first)

    def addition(self) -> dict[str, Any]:
        """What the new files are, for the manifest: how many, how large, and a short name for all of them."""
        digest = hashlib.sha256()
        for line in self.new_lines():
            digest.update(json.dumps(line).encode())
        count, size = self.db.execute("SELECT count(*), coalesce(sum(bytes), 0) FROM files WHERE old = 0").fetchone()
        return {"files": count, "bytes": size, "fingerprint": digest.hexdigest()[:16]}


@contextmanager
def told() -> Iterator[None]:
    """Turn what SQLite says of a full disk into a UserError."""
    try:
        yield
    except sqlite3.OperationalError as error:
        folder = os.environ.get("SQLITE_TMPDIR") or os.environ.get("TMPDIR") or "/var/tmp"
        raise UserError(f"{folder}: {error}; free some space there, or set TMPDIR to another folder") from error


def _blob(path: str | bytes | None) -> bytes | None:
    if not isinstance(path, str):
        return path
    try:
        return path.encode("utf-8", "surrogateescape")  # a name that is no UTF-8, as the system has it
    except UnicodeEncodeError:
        return path.encode("utf-8", "surrogatepass")  # only a table of captions can say such a thing


def _name(path: bytes | None) -> str | None:
    return path.decode("utf-8", "surrogateescape") if path is not None else None


def _text(detail: str) -> str:
    return detail.encode("utf-8", "backslashreplace").decode()
