"""Pictures that look the same: their perceptual hashes differ in a few of 64 bits.

Hashing runs in processes over lists of files; comparing runs in one, in the order of paths, so that the result does not
depend on who was first. Hashes that differ in at most N bits agree in one of N + 1 bands, which an index finds.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from clipgen.data.atomic import fingerprint, replacing
from clipgen.errors import UserError
from data_prep.convert import check_size, read_file
from data_prep.decode import SetAside, read
from data_prep.executor import Executor, run
from data_prep.ledger import Ledger
from data_prep.scan import SourceFile
from data_prep.settings import PackSettings

BITS = 64
_A_LIST = 2000  # files
_SIDE = 64  # pixels that a JPEG is decoded to at least; the hash looks at 32 × 32


@dataclass(frozen=True)
class _Look:
    """Files to hash, as JSON lines, and where their hashes go."""

    source: Path
    hashes: Path
    root: Path
    settings: PackSettings


def settle_near(seen: Ledger, root: Path, out: Path, settings: PackSettings, workers: int, executor: Executor) -> None:
    """Mark new files whose picture differs from an earlier one in at most `near_duplicates` bits of its hash."""
    try:
        import imagehash  # noqa: F401
    except ImportError as error:
        raise UserError("prep.near_duplicates needs imagehash; say `pip install 'clipgen[near]'`") from error
    looks, count, mark = [], 0, fingerprint(asdict(settings))
    for batch in seen.batches(_A_LIST):
        name = f".chunk-look-{mark}-{len(looks):06d}"
        look = _Look(out / f"{name}.jsonl", out / f"{name}.txt", root, settings)
        count += len(batch)
        text = "".join(json.dumps(asdict(file)) + "\n" for _, file in batch)
        if not (look.hashes.exists() and look.source.exists() and look.source.read_text(encoding="ascii") == text):
            look.hashes.unlink(missing_ok=True)
            with replacing(look.source) as temporary:
                temporary.write_text(text, encoding="ascii")
        looks.append(look)
    missing = [look for look in looks if not look.hashes.exists()]
    if missing:
        to_do = min(count, len(missing) * _A_LIST)
        run(_hash_files, missing, workers, "looking for near duplicates", count, count - to_do, executor)
    bands = _Bands(seen, settings.near_duplicates)
    hashes = (line for look in looks for line in _lines(look.hashes))
    files = (file for batch in seen.batches(_A_LIST) for file in batch)
    for (number, _), line in zip(files, hashes, strict=True):
        if value := line.strip():
            if (first := bands.near(int(value, 16))) is None:
                seen.settle(number, hash=value)
                bands.add(int(value, 16), number)
            else:
                seen.settle(number, copy_of=first.encode("utf-8", "surrogateescape"))


def _lines(path: Path) -> Iterator[str]:
    with open(path, encoding="ascii") as lines:
        yield from lines


def _hash_files(look: _Look, tick) -> None:
    with replacing(look.hashes) as temporary, open(temporary, "w", encoding="ascii") as out:
        for line in _lines(look.source):
            out.write(f"{_hash(look, SourceFile(**json.loads(line)))}\n")
            tick()


def _hash(look: _Look, file: SourceFile) -> str:
    import imagehash

    try:
        data, most = read_file(look.root, file), look.settings.max_pixels
        picture = read(data, most, at_least=_SIDE, wanted=look.settings.formats)
        check_size(picture, look.settings)  # what is not packed stands for no other
    except SetAside:
        return ""  # what is wrong with it is told when it is converted
    return str(imagehash.phash(picture.image, hash_size=8))


class _Bands:
    """The numbers of files by each band of their hashes, beside the ledger on the disk."""

    def __init__(self, seen: Ledger, bits: int):
        self.db, self.bits = seen.db, bits
        edges = [BITS * i // (bits + 1) for i in range(bits + 2)]
        self.spans = list(pairwise(edges))
        columns = "band INTEGER, value INTEGER, file INTEGER, PRIMARY KEY (band, value, file)"
        self.db.execute(f"CREATE TABLE bands ({columns}) WITHOUT ROWID")
        for number, mark in self.db.execute("SELECT id, hash FROM files WHERE old = 1 AND hash IS NOT NULL"):
            self.add(int(mark, 16), number)

    def add(self, value: int, number: int) -> None:
        """Take in the hash of a file, which stands in the ledger too."""
        for band, part in enumerate(self._parts(value)):
            self.db.execute("INSERT INTO bands VALUES (?, ?, ?)", (band, part, number))

    def near(self, value: int) -> str | None:
        """The path that comes first among those near enough, or none."""
        query = "SELECT hash, path FROM bands JOIN files ON id = file WHERE band = ? AND value = ?"
        found = []
        for band, part in enumerate(self._parts(value)):
            rows = self.db.execute(query, (band, part))
            found += [path for mark, path in rows if (int(mark, 16) ^ value).bit_count() <= self.bits]
        return min(found).decode("utf-8", "surrogateescape") if found else None

    def _parts(self, value: int) -> list[int]:
        # a band of all 64 bits has no place in SQLite's signed numbers
        shift = 1 << 63 if self.bits == 0 else 0
        return [((value >> low) & ((1 << high - low) - 1)) - shift for low, high in self.spans]
