"""Tars as input, such as img2dataset writes: their members are read where they lie, nothing is ever unpacked.

A tar is data from anywhere: only plain files count, names are text, and no header may ask for much memory.
"""

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MOST_HEADER_BYTES = 1 << 20  # of one long name or pax header, which tarfile reads whole


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a tar: where its bytes lie, or why it is not read."""

    name: str
    bytes: int
    offset: int
    special: bool  # a link, a device, a sparse file: no plain bytes


class BrokenTar(Exception):
    """What a tar is wrong with; the members before that place are good."""


def members(path: str | Path) -> Iterator[Member]:
    """The members of an uncompressed tar but its folders, in its order; BrokenTar where it ends early."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            bounded = _Bounded(file)
            with tarfile.open(fileobj=bounded, mode="r:") as tar:
                for entry in tar:
                    plain = entry.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and entry.sparse is None
                    if not entry.isdir():
                        if entry.size < 0 or (plain and entry.offset_data + entry.size > size):
                            raise BrokenTar(f"{entry.name!r} is cut short")
                        yield Member(entry.name, entry.size if plain else 0, entry.offset_data, not plain)
                    tar.members.clear()  # tarfile remembers every header otherwise
                file.seek(tar.offset)
                if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise BrokenTar("its end mark is missing")  # tarfile takes a bad header for the end, in silence
    except (tarfile.TarError, EOFError, OSError, ValueError, OverflowError) as error:
        raise BrokenTar(f"{type(error).__name__}: {error}") from error


class _Bounded:
    """A file of which nobody reads much at once, so that a header that claims to be long takes no memory."""

    def __init__(self, file):
        self.tell, self.seek, self._file = file.tell, file.seek, file

    def read(self, count: int = -1) -> bytes:
        if not 0 <= count <= MOST_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {count} bytes")
        return self._file.read(count)
