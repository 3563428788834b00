"""The files of a folder, in an order that depends on their names only."""

import os
from dataclasses import dataclass
from pathlib import Path

from clipgen.errors import UserError
from data_prep.decode import HEAD_BYTES, could_be_image

_LITTER = frozenset({"Thumbs.db", "ehthumbs.db", "desktop.ini", "Desktop.ini", "Icon\r", "__MACOSX"})


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file by its path below the root, with `/` between folders, and its size in bytes."""

    path: str
    bytes: int


@dataclass(frozen=True)
class Listing:
    """The files of a folder, sorted by path, and how many entries were passed over.

    `hidden` counts names that begin with a dot and the litter of operating systems; `links` those links that were not
    followed, as they lead out of the root or to a folder.
    """

    root: Path
    files: list[SourceFile]
    hidden: int
    links: int


def scan(folder: str | Path) -> Listing:
    """Walk a folder; UserError when it is missing, no folder, empty, or has no file that could be an image."""
    folder = Path(folder)
    if not folder.exists():
        raise UserError(f"images={folder} does not exist; give the folder that holds your images")
    if not folder.is_dir():
        raise UserError(f"images={folder} is a file; give the folder that holds your images")
    listing = walk(folder)
    passed_over = f" ({listing.hidden} hidden entries and {listing.links} links that lead elsewhere were passed over)"
    passed_over = passed_over if listing.hidden or listing.links else ""
    if not listing.files:
        raise UserError(f"images={folder} has no file in it{passed_over}; give the folder that holds your images")
    if not any(_could_be_image(listing.root, file) for file in listing.files):
        raise UserError(
            f"images={folder} has {len(listing.files)} files but no image, the first is {listing.files[0].path!r}"
            f"{passed_over}; give the folder that holds your images"
        )
    return listing


def walk(folder: str | Path) -> Listing:
    """All regular files below a folder, hidden ones and links out of it left out but counted."""
    root = Path(folder).resolve()
    files, hidden, links = [], 0, 0
    folders = [""]
    while folders:
        below = folders.pop()
        try:
            entries = list(os.scandir(root / below))
        except OSError as error:
            raise UserError(f"{root / below!s} cannot be listed ({error.strerror}); change its permissions") from error
        for entry in entries:
            path = f"{below}{entry.name}"
            if entry.name.startswith(".") or entry.name in _LITTER:
                hidden += 1
            elif entry.is_symlink() and not (entry.is_file() and Path(entry.path).resolve().is_relative_to(root)):
                links += 1
            elif entry.is_dir():
                folders.append(f"{path}/")
            elif entry.is_file():  # neither a pipe nor a device
                files.append(SourceFile(path, entry.stat().st_size))
            else:
                hidden += 1
    return Listing(root, sorted(files, key=lambda file: file.path), hidden, links)


def _could_be_image(root: Path, file: SourceFile) -> bool:
    try:
        with open(root / file.path, "rb") as opened:
            return could_be_image(file.path, opened.read(HEAD_BYTES))
    except OSError:
        return False
