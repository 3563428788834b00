"""Files that are either whole or absent: written beside their final name, flushed to the disk, then renamed."""

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from clipgen.errors import UserError

TEMPORARY = ".*.tmp-*"  # what a killed process may leave behind
PREVIOUS = ".previous"  # how the name of a folder ends that was set aside for another of its name

_MENDS = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again, what is complete is kept",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again, what is complete is kept",
    errno.EACCES: "no permission to write there; choose another folder or change its permissions",
    errno.EPERM: "no permission to write there; choose another folder or change its permissions",
    errno.EFBIG: "the file is larger than this disk or this account allows; make shards smaller or take another folder",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.ENOTDIR: "a part of this path is a file, not a folder; choose another folder",
    errno.EEXIST: "a file lies where a folder is needed; choose another folder",
    errno.EISDIR: "a folder lies where a file is needed; choose another folder",
}


@contextmanager
def explained(path: str | Path) -> Iterator[None]:
    """Turn the OSErrors of writing `path` that a user can mend (full disk, permissions) into a UserError."""
    try:
        yield
    except OSError as error:
        if error.errno not in _MENDS:
            raise
        raise UserError(f"{path}: {_MENDS[error.errno]} ({os.strerror(error.errno)})") from error


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; on success it becomes `path` at once, on any exception it goes.

    Makes the folder where it is missing. Raises UserError for a full disk or a missing permission.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp-{os.uname().nodename}-{os.getpid()}")  # of all that share a disk
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            _flush(temporary)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        _flush(path.parent)  # the rename itself survives a power cut only when its folder is flushed


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot flush a folder
            raise
    finally:
        os.close(descriptor)


def write_json(path: str | Path, obj: Any) -> None:
    """Write `obj` as indented UTF-8 JSON, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(obj, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def sha256_file(path: str | Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(obj: Any) -> str:
    """A short name for a JSON value: 16 hex digits of the sha256 of its canonical form (sorted keys, no blanks)."""
    canonical = json.dumps(obj, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
