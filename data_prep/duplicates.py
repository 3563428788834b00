"""Copies of a picture among the new files, and of new files of what was packed before.

Of equal files the one packed earlier stays, else the one whose path comes first.
"""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from data_prep.decode import HEAD_BYTES, could_be_image
from data_prep.ledger import UNDECIDED, Ledger
from data_prep.scan import SourceFile

_AT_ONCE = 128
_BLOCK = 1 << 20


def settle_copies(ledger: Ledger, root: Path, workers: int) -> None:
    """Mark new files that have the very bytes of another; only files of equal size are read."""
    with ThreadPoolExecutor(workers) as pool:  # reading and hashing leave Python's lock alone
        for files in _batches(ledger.same_size_as_another()):
            digests = pool.map(lambda file: _sha256(root, file[1]), files)
            for (number, _), sha256 in zip(files, digests, strict=True):
                if sha256 is not None:
                    ledger.settle(number, sha256=sha256)
    ledger.db.execute("CREATE INDEX by_sha256 ON files (sha256)")
    first = "SELECT o.path FROM files o WHERE o.sha256 = files.sha256 AND o.copy_of IS NULL ORDER BY o.old DESC, o.path"
    ledger.db.execute(
        f"UPDATE files SET copy_of = ({first} LIMIT 1) WHERE {UNDECIDED} AND sha256 IS NOT NULL "
        f"AND path != ({first} LIMIT 1)"
    )


def altered(ledger: Ledger, root: Path, workers: int) -> Iterator[tuple[int, str, bool]]:
    """The files of earlier runs that have other bytes than then: number, path and whether they were packed."""
    with ThreadPoolExecutor(workers) as pool:
        for files in _batches(ledger.hashed_earlier()):
            digests = pool.map(lambda file: _sha256(root, file[1]), files)
            for (number, file, sha256, packed), digest in zip(files, digests, strict=True):
                if digest != sha256:
                    yield number, file.path, packed


def _batches(files: Iterator[tuple]) -> Iterator[list[tuple]]:
    while batch := list(islice(files, _AT_ONCE)):
        yield batch


def _sha256(root: Path, file: SourceFile) -> str | None:
    """Of a file that could be an image; what cannot be read is found out when it is converted."""
    digest, left = hashlib.sha256(), file.bytes
    try:
        if not could_be_image(file.path, file.read(root, HEAD_BYTES)):
            return None
        with open(root / (file.tar or file.path), "rb") as opened:
            opened.seek(file.offset)
            while left > 0 and (block := opened.read(min(left, _BLOCK))):
                digest.update(block)
                left -= len(block)
    except OSError:
        return None
    return digest.hexdigest()
