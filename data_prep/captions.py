"""Captions that come with a folder of images: a table, or a text file beside each image."""

import csv
from collections.abc import Mapping
from pathlib import Path

from clipgen.errors import UserError
from data_prep.decode import claims_to_be_image
from data_prep.scan import walk

Captions = Mapping[str, list[str]]  # path below the root → captions

_FILE_COLUMNS = ("file", "file_name", "filename", "path", "image", "image_path")
_CAPTION_COLUMNS = ("caption", "captions", "text", "name")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


def read_captions(path: str | Path) -> Captions:
    """Read a .csv or .tsv with a column for the file (below the image folder) and one for the caption.

    A first row that names the columns (file, caption) may say which they are, else they are the first two. A file
    that has several rows gets several captions. Raises UserError with the line of what cannot be read.
    """
    path = Path(path)
    if path.suffix.lower() not in _DELIMITERS:
        raise UserError(f"captions={path} is neither .csv nor .tsv; give a table with the columns file and caption")
    captions: dict[str, list[str]] = {}
    file_column, caption_column = 0, 1
    delimiter = _DELIMITERS[path.suffix.lower()]
    quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL  # a quote in a .tsv is just a quote
    try:
        with open(path, encoding="utf-8-sig", newline="") as table:
            rows = csv.reader(table, delimiter=delimiter, quoting=quoting, strict=True)
            for row in rows:
                names = [name.strip().lower() for name in row]
                if rows.line_num == 1 and (file_names := [n for n in names if n in _FILE_COLUMNS]):
                    file_column = names.index(file_names[0])
                    caption_names = [n for n in names if n in _CAPTION_COLUMNS]
                    if not caption_names:
                        raise UserError(f"{path}: no column is called caption, only {', '.join(names)}; name one so")
                    caption_column = names.index(caption_names[0])
                elif row:
                    if len(row) <= max(file_column, caption_column):
                        raise UserError(f"{path}, line {rows.line_num}: a file and a caption are needed, found {row}")
                    caption = " ".join(row[caption_column].split())
                    if caption:
                        captions.setdefault(row[file_column].strip().removeprefix("./"), []).append(caption)
    except FileNotFoundError as error:
        raise UserError(f"captions={path} does not exist; give a .csv or .tsv") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"captions={path} cannot be read ({error}); it must be a table in UTF-8") from error
    if not captions:
        raise UserError(f"captions={path} has no caption in it; it needs rows with a file and a caption")
    return captions


def sidecar_captions(images: str | Path) -> Captions:
    """Captions from the .txt beside each image (a/b.jpg and a/b.txt), one a line; UserError where one is not UTF-8."""
    listing = walk(images)
    texts = {file.path.removesuffix(".txt"): file.path for file in listing.files if file.path.endswith(".txt")}
    captions: dict[str, list[str]] = {}
    for file in listing.files:
        stem, dot, _ = file.path.rpartition(".")
        if not dot or stem not in texts or not claims_to_be_image(file.path):
            continue
        try:
            text = (listing.root / texts[stem]).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{listing.root / texts[stem]} cannot be read as UTF-8 text ({error}); mend it") from error
        if lines := [" ".join(line.split()) for line in text.splitlines() if line.strip()]:
            captions[file.path] = lines
    return captions
