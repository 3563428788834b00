"""Every file below a folder, tars opened like folders, and what is passed over from the start with the reason."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clipgen.errors import UserError
from data_prep import tars
from data_prep.decode import HEAD_BYTES, claims_to_be_image, could_be_image

LITTER = frozenset({"Thumbs.db", "ehthumbs.db", "desktop.ini", "Desktop.ini", "Icon\r", "__MACOSX"})


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file by its path below the root, with `/` between folders, and its size in bytes.

    Of a member of a tar, `tar` is the path of the tar and `offset` where its bytes begin. `reason` and `detail` say why
    a file is set aside before it is opened.
    """

    path: str
    bytes: int
    tar: str | None = None
    offset: int = 0
    reason: str | None = None
    detail: str = ""

    def read(self, root: Path, count: int = -1) -> bytes:
        """The first `count` bytes, or all."""
        with open(root / (self.tar or self.path), "rb") as opened:
            if self.tar is None:
                return opened.read(count)
            opened.seek(self.offset)
            return opened.read(self.bytes if count < 0 else min(count, self.bytes))


@dataclass
class PassedOver:
    """What is no regular file: links out of the root or to a folder, and pipes, sockets and devices."""

    links: int = 0
    special: int = 0


def require_images(folder: str | Path) -> None:
    """UserError when the folder is missing, no folder, empty, or has no file that could be an image."""
    folder = Path(folder)
    if not folder.exists():
        raise UserError(f"images={folder} does not exist; give the folder that holds your images")
    if not folder.is_dir():
        raise UserError(f"images={folder} is a file; give the folder that holds your images")
    root, over = folder.resolve(), PassedOver()
    count, hidden, first = 0, 0, None
    for file in walk(folder, over):
        if file.reason is None and _could_be_image(root, file):
            return
        hidden += file.reason == "hidden"
        count += file.reason != "hidden"
        first = min(first or file.path, file.path) if file.reason != "hidden" else first
    passed_over = f" ({hidden} hidden files and {over.links} links that lead elsewhere were passed over)"
    passed_over = passed_over if hidden or over.links else ""
    if not count:
        raise UserError(f"images={folder} has no file in it{passed_over}; give the folder that holds your images")
    raise UserError(
        f"images={folder} has {count} files but no image, the first is {first!r}{passed_over}; "
        "give the folder that holds your images"
    )


def looks_like_image(folder: str | Path, file: SourceFile) -> bool:
    """Whether a file is an image by its name or its first bytes, and not set aside from the start."""
    return file.reason is None and (claims_to_be_image(file.path) or _could_be_image(Path(folder), file))


def walk(folder: str | Path, over: PassedOver | None = None) -> Iterator[SourceFile]:
    """All regular files below a folder and all members of its tars, in no particular order.

    Hidden files and the litter of operating systems come with the reason `hidden`, members of tars that are no plain
    file with `special`. Raises UserError for a folder that cannot be listed.
    """
    root, over = Path(folder).resolve(), over if over is not None else PassedOver()
    folders = [("", False)]
    while folders:
        below, hidden = folders.pop()
        for entry in _entries(root / below):
            path, unwanted = f"{below}{entry.name}", hidden or _unwanted(entry.name)
            if entry.is_symlink() and not (entry.is_file() and Path(entry.path).resolve().is_relative_to(root)):
                over.links += 1
            elif entry.is_dir():
                folders.append((f"{path}/", unwanted))
            elif not entry.is_file():  # a pipe or a device would never end
                over.special += 1
            elif unwanted:
                yield SourceFile(path, entry.stat().st_size, reason="hidden", detail="hidden, or litter of a system")
            elif entry.name.endswith(".tar"):
                yield from _members(root, path, entry.stat().st_size)
            else:
                yield SourceFile(path, entry.stat().st_size)


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """One at a time: a folder may hold a million."""
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError as error:
        raise UserError(f"{folder} cannot be listed ({error.strerror}); change its permissions") from error


def _unwanted(name: str) -> bool:
    return name.startswith(".") or name in LITTER


def _members(root: Path, tar: str, size: int) -> Iterator[SourceFile]:
    """The members of a tar; the tar itself where it is broken or empty, so that no file goes unseen."""
    detail = "the tar is empty"
    try:
        for member in tars.members(root / tar):
            detail = ""
            path = f"{tar}/{member.name}"
            if member.special:
                yield SourceFile(path, 0, tar, member.offset, "special", "a link, device or sparse file in a tar")
            elif any(_unwanted(part) for part in member.name.split("/") if part not in ("", ".", "..")):
                yield SourceFile(path, member.bytes, tar, member.offset, "hidden", "hidden, or litter of a system")
            else:
                yield SourceFile(path, member.bytes, tar, member.offset)
    except tars.BrokenTar as error:
        detail = str(error)
    if detail:
        yield SourceFile(tar, size, reason="unreadable", detail=f"tar: {detail}")


def _could_be_image(root: Path, file: SourceFile) -> bool:
    try:
        return could_be_image(file.path, file.read(root, HEAD_BYTES))
    except OSError:
        return False
