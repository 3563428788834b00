"""WebDataset tars: written so that the same samples give the same bytes, read at random by offset.

S samples and M members of a shard
"""

import hashlib
import os
import tarfile
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np

from clipgen.data.atomic import replacing
from clipgen.data.manifest import Manifest, Shard
from clipgen.data.sample import Sample
from clipgen.errors import UserError

_BLOCK = tarfile.BLOCKSIZE

os.environ["WDS_SECURE"] = "1"  # webdataset then refuses pickles and `pipe:` wherever it is used in this process


def shard_name(split: str, number: int) -> str:
    """The file name of a shard: train-000012.tar."""
    return f"{split}-{number:06d}.tar"


def write_shard(path: str | Path, samples: Iterable[Sample]) -> Shard:
    """Write samples as one tar, atomically, and tell its entry for the manifest; the split is the name before the `-`.

    The bytes depend on nothing but the samples: no time, no owner, members sorted. Raises UserError on a full disk.
    """
    path, count, size, digest = Path(path), 0, 0, hashlib.sha256()
    with replacing(path) as temporary, open(temporary, "wb") as file:

        def write(data: bytes) -> None:
            nonlocal size
            size += file.write(data)
            digest.update(data)

        for sample in samples:
            write(_members(sample))
            count += 1
        write(bytes(2 * _BLOCK))  # the end mark, filled up to a whole record
        write(bytes(-size % tarfile.RECORDSIZE))
    return Shard(path.name, path.name.rpartition("-")[0], count, size, digest.hexdigest())


def _members(sample: Sample) -> bytes:
    """A sample as webdataset's TarWriter would write it, in a third of its time and without its import of torch."""
    parts: list[bytes] = []
    for extension in sorted(name for name in sample if not name.startswith("_")):
        data = sample[extension]
        member = tarfile.TarInfo(f"{sample['__key__']}.{extension}")
        member.size = len(data)
        parts += [member.tobuf(tarfile.USTAR_FORMAT), data, bytes(-len(data) % _BLOCK)]
    return b"".join(parts)


class TarIndex(Sequence[Sample]):
    """Random access to the samples of one tar, by the offsets in its headers; `index[row]` reads one.

    No file stays open, so an index can be forked or pickled, and thousands of shards do not run into the limit on
    open files. A tar that is broken or cut, that has anything but plain files in it, or that has not the `samples`
    that its manifest says, raises UserError.
    """

    def __init__(self, path: str | Path, samples: int | None = None):
        self.path = Path(path)
        keys: list[str] = []
        first: list[int] = []  # row → its first member
        members: list[tuple[int, int, int]] = []  # offset, bytes, number of its extension
        extensions: dict[str, int] = {}
        for name, offset, size in self._headers():
            key, _, extension = name.partition(".")
            if not keys or keys[-1] != key:
                keys.append(key)
                first.append(len(members))
            members.append((offset, size, extensions.setdefault(extension, len(extensions))))
        if len(set(keys)) != len(keys):
            raise UserError(f"shard {self.path} has the members of one key in two places; make it again")
        if samples is not None and len(keys) != samples:
            raise UserError(
                f"shard {self.path} holds {len(keys)} samples, but its manifest says {samples}; "
                "bring the right file back, or make the folder again"
            )
        # arrays, as a million samples in dicts would take a gigabyte
        self._keys_S = np.array(keys, dtype=np.str_)
        self._first_S = np.array([*first, len(members)], dtype=np.int64)
        self._members_M3 = np.array(members, dtype=np.int64).reshape(-1, 3)
        self._extensions = list(extensions)

    def _headers(self) -> Iterator[tuple[str, int, int]]:
        """Name, offset and bytes of each member; tarfile takes 20 times as long, and a bad header for the end."""
        try:
            with open(self.path, "rb") as file:
                offset = 0
                while (header := file.read(_BLOCK)) != bytes(_BLOCK):
                    if len(header) < _BLOCK:
                        raise ValueError("its end mark is missing")
                    if sum(header) - sum(header[148:156]) + 8 * ord(" ") != _octal(header[148:156]):
                        raise ValueError(f"bad header at byte {offset}")
                    name, prefix = (header[a:b].partition(b"\0")[0].decode() for a, b in ((0, 100), (345, 500)))
                    if header[156:157] not in (tarfile.REGTYPE, tarfile.AREGTYPE):
                        raise UserError(
                            f"shard {self.path} holds {name.rstrip('/')!r}, which is not a plain file; refusing it"
                        )
                    size = _octal(header[124:136])
                    yield f"{prefix}/{name}" if prefix else name, offset + _BLOCK, size
                    offset += _BLOCK * (1 + -(-size // _BLOCK))
                    file.seek(offset)
                if file.read(_BLOCK) != bytes(_BLOCK):
                    raise ValueError("its end mark is missing")
        except FileNotFoundError as error:
            raise UserError(f"shard {self.path} does not exist; bring it back, or make the folder again") from error
        except ValueError as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"shard {self.path} is broken or cut short ({error}); make it again") from error

    def __len__(self) -> int:
        return len(self._keys_S)

    def key(self, row: int) -> str:
        """The key of a row."""
        return str(self._keys_S[row])

    def keys(self) -> list[str]:
        """The keys of all rows, in order."""
        return self._keys_S.tolist()

    def __getitem__(self, row: int) -> Sample:
        return self.read(row)

    def read(self, row: int) -> Sample:
        """The sample of a row: "__key__" and the bytes of every member by its extension."""
        if not 0 <= row < len(self):
            raise IndexError(row)
        members = self._members_M3[self._first_S[row] : self._first_S[row + 1]].tolist()
        start, stop = members[0][0], members[-1][0] + members[-1][1]
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            span = os.pread(descriptor, stop - start, start)  # members of a sample are neighbours: one read for all
        finally:
            os.close(descriptor)
        if len(span) != stop - start:
            raise UserError(f"shard {self.path} was cut while it was in use; bring it back, or make the folder again")
        sample: Sample = {"__key__": self.key(row)}
        for offset, size, extension in members:
            sample[self._extensions[extension]] = span[offset - start : offset - start + size]
        return sample


def _octal(field: bytes) -> int:
    return int(field.strip(b" \0"), 8)


class ShardSet(Sequence[Sample]):
    """All shards of a split as one sequence of samples.

    A shard is read whole when it is first needed: its sha256 shows damage that no decoder would (UserError), the disk
    is read in one sweep, and what is then read of it at random comes from the page cache.
    """

    def __init__(self, folder: str | Path, split: str, manifest: Manifest | None = None):
        self.folder = Path(folder)
        self.split = split
        self.manifest = manifest or Manifest.load(folder)
        self.shards = self.manifest.of_split(split)
        self._ends = list(accumulate(shard.samples for shard in self.shards))
        self._indexes: dict[int, TarIndex] = {}

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, i: int) -> Sample:
        index, row = self._find(i)
        return index.read(row)

    def key(self, i: int) -> str:
        """The key of sample `i`."""
        index, row = self._find(i)
        return index.key(row)

    def where(self, i: int) -> str:
        """Sample `i` in words, for messages: its shard and key."""
        index, row = self._find(i)
        return f"{index.path}: sample {index.key(row)}"

    def _find(self, i: int) -> tuple[TarIndex, int]:
        if not 0 <= i < len(self):
            raise IndexError(i)
        number = bisect_right(self._ends, i)
        if number not in self._indexes:
            shard = self.shards[number]
            if shard.sha256:
                Manifest(self.manifest.kind, [shard]).check(self.folder, deep=True)
            self._indexes[number] = TarIndex(self.folder / shard.name, shard.samples)
        return self._indexes[number], i - (self._ends[number] - self.shards[number].samples)
