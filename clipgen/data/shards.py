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
from typing import BinaryIO

import numpy as np

from clipgen.data.atomic import replacing
from clipgen.data.manifest import Manifest, Shard
from clipgen.data.sample import Sample
from clipgen.errors import UserError

os.environ["WDS_SECURE"] = "1"  # webdataset then refuses pickles and `pipe:` wherever it is used in this process


def shard_name(split: str, number: int) -> str:
    """The file name of a shard: train-000012.tar."""
    return f"{split}-{number:06d}.tar"


def write_shard(path: str | Path, samples: Iterable[Sample]) -> Shard:
    """Write samples as one tar, atomically, and tell its entry for the manifest; the split is the name before the `-`.

    The bytes depend on nothing but the samples: no time, no owner, members sorted. Raises UserError on a full disk.
    """
    from webdataset import TarWriter  # imports torch, 1.5 s that reading does without

    path, count = Path(path), 0
    with replacing(path) as temporary, open(temporary, "wb") as file:
        digest = _Digest(file)
        with TarWriter(digest, encoder=False, user="", group="", mode=0o644, mtime=0) as writer:
            for sample in samples:
                writer.write(sample)
                count += 1
        file.flush()
        size = file.tell()
    return Shard(path.name, path.name.rpartition("-")[0], count, size, digest.sha256.hexdigest())


class _Digest:
    """A file that takes the sha256 of what is written to it."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        return self.file.write(data)


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
        try:
            with tarfile.open(self.path, "r:") as tar:
                for entry in tar:
                    if entry.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
                        raise UserError(
                            f"shard {self.path} holds {entry.name!r}, which is not a plain file; refusing it"
                        )
                    yield entry.name, entry.offset_data, entry.size
                    tar.members.clear()  # tarfile remembers every header otherwise
                tar.fileobj.seek(tar.offset)
                if tar.fileobj.read(2 * tarfile.BLOCKSIZE) != bytes(2 * tarfile.BLOCKSIZE):
                    raise EOFError("its end mark is missing")  # tarfile takes a bad header for the end, in silence
        except FileNotFoundError as error:
            raise UserError(f"shard {self.path} does not exist; bring it back, or make the folder again") from error
        except (tarfile.TarError, EOFError) as error:
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


class ShardSet(Sequence[Sample]):
    """All shards of a split as one sequence of samples; the tar of a shard is indexed when first needed.

    A shard is then also held against the sha256 of its manifest, as two shards that were swapped, or a flipped byte,
    show in nothing else. This reads it whole, once, at 1.6 GB/s: of shards of latents 5 % of what their index takes.
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
            Manifest(self.manifest.kind, [shard]).check(self.folder, deep=True)
            self._indexes[number] = TarIndex(self.folder / shard.name, shard.samples)
        return self._indexes[number], i - (self._ends[number] - self.shards[number].samples)
