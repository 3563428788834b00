"""One process at a time for what is made once and used by many."""

import fcntl
import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from clipgen.data.atomic import explained
from clipgen.errors import UserError


@contextmanager
def alone(folder: str | Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold `folder` against every other process that asks so, also on other machines that see it; `say` who waits.

    The lock is a file beside the folder, and the system lets go of it when the process ends, however it ends.
    """
    lock = lock_of(folder)
    if not os.access(Path(lock.lock_file).parent, os.W_OK):  # then nobody makes anything there
        yield
        return
    with explained(lock.lock_file):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"{folder} is being made by another process; this one waits")
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


class Claim:
    """No other process can claim `folder`, whatever its name is by then, until `release` or the end of this process.

    UserError where another one has claimed it. A file system that locks no folders lets everyone in.
    """

    def __init__(self, folder: Path):
        with explained(folder):
            descriptor = os.open(folder, os.O_RDONLY)
        self.descriptor, self.release = descriptor, weakref.finalize(self, os.close, descriptor)
        _CLAIMS.add(self)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise UserError(
                f"{folder} is being made by another process; wait until that ends, or take another name="
            ) from None
        except OSError:
            self.release()


_CLAIMS: "weakref.WeakSet[Claim]" = weakref.WeakSet()


def _not_of_children() -> None:
    """A forked child, such as one that loads data, would hold a folder for longer than its parent lives."""
    for claim in list(_CLAIMS):
        if claim.release.detach():
            os.close(claim.descriptor)


os.register_at_fork(after_in_child=_not_of_children)


def is_held(folder: str | Path) -> bool:
    """Whether a process holds `folder`; where this one may not look, it is taken to be so."""
    lock = lock_of(folder)
    if not Path(lock.lock_file).exists():
        return False
    try:
        lock.acquire(timeout=0)
    except (Timeout, PermissionError):
        return True
    lock.release()
    return False


def lock_of(folder: str | Path) -> FileLock:
    """The lock beside `folder`, not taken yet; makes the folder above where it is missing."""
    folder = Path(folder)
    with explained(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(folder.with_name(f".{folder.name}.lock"))
