"""Captions that come with images: a table, or a text file beside each image."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clipgen.errors import UserError

Caption = tuple[str, str]  # path below the root, and what it says

_FILE_COLUMNS = ("file", "file_name", "filename", "path", "image", "image_path", "key")
_CAPTION_COLUMNS = ("caption", "captions", "text", "name")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


def read_captions(path: str | Path) -> Iterator[Caption]:
    """The captions of a .csv, .tsv, .jsonl or .parquet with a file (below the image folder) and a caption a row.

    Columns are told by their names (file, caption); a .csv or .tsv without a row of names has them first. A file may
    have several rows, and in .jsonl and .parquet a row several captions. Raises UserError with the row of what cannot
    be read.
    """
    path = Path(path)
    readers = {".csv": _table, ".tsv": _table, ".jsonl": _lines, ".parquet": _parquet}
    if (reader := readers.get(path.suffix.lower())) is None:
        raise UserError(
            f"captions={path} is none of {', '.join(readers)}; give a table with the columns file and caption"
        )
    found = False
    try:
        for file, caption in reader(path):
            if words := " ".join(caption.split()):
                found = True
                # a lone half of a character, which JSON can hold, is no text
                yield file.strip().removeprefix("./"), words.encode("utf-8", "replace").decode()
    except FileNotFoundError as error:
        raise UserError(f"captions={path} does not exist; give a .csv, .tsv, .jsonl or .parquet") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"captions={path} cannot be read ({error}); it must be a table in UTF-8") from error
    if not found:
        raise UserError(f"captions={path} has no caption in it; it needs rows with a file and a caption")


def _table(path: Path) -> Iterator[Caption]:
    file_column, caption_column = 0, 1
    delimiter = _DELIMITERS[path.suffix.lower()]
    quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL  # a quote in a .tsv is just a quote
    with open(path, encoding="utf-8-sig", newline="") as table:
        rows = csv.reader(table, delimiter=delimiter, quoting=quoting, strict=True)
        for row in rows:
            names = [name.strip().lower() for name in row]
            if rows.line_num == 1 and any(name in _FILE_COLUMNS for name in names):
                file_column, caption_column = (names.index(name) for name in _columns(path, names))
            elif row:
                if len(row) <= max(file_column, caption_column):
                    raise UserError(f"{path}, line {rows.line_num}: a file and a caption are needed, found {row}")
                yield row[file_column], row[caption_column]


def _lines(path: Path) -> Iterator[Caption]:
    with open(path, encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise UserError(f"{path}, line {number}: this is no JSON ({error}); mend it") from error
                if not isinstance(row, dict):
                    raise UserError(f"{path}, line {number}: an object with file and caption is needed, found {row!r}")
                yield from _row(path, f"line {number}", row)


def _parquet(path: Path) -> Iterator[Caption]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(f"captions={path} needs pyarrow; say `pip install 'clipgen[parquet]'`") from error
    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            columns = _columns(path, table.schema_arrow.names)
            for batch in table.iter_batches(batch_size=4096, columns=list(columns)):
                for row in batch.to_pylist():
                    yield from _row(path, "a row", row)
    except pyarrow.ArrowException as error:
        raise UserError(f"captions={path} cannot be read ({str(error).splitlines()[0]}); mend it") from error


def _columns(path: Path, names: list[str]) -> tuple[str, str]:
    """The names of the columns for the file and the caption."""
    file = next((name for name in names if name.lower() in _FILE_COLUMNS), None)
    caption = next((name for name in names if name.lower() in _CAPTION_COLUMNS), None)
    if file is None or caption is None:
        missing = "file" if file is None else "caption"
        raise UserError(f"{path}: no column is called {missing}, only {', '.join(names)}; name one so")
    return file, caption


def _row(path: Path, where: str, row: dict[str, Any]) -> Iterator[Caption]:
    file, captions = (row[name] for name in _columns(path, list(row)))
    captions = captions if isinstance(captions, list) else [captions]
    if not isinstance(file, str) or not all(isinstance(caption, str | None) for caption in captions):
        raise UserError(f"{path}, {where}: file must be a text and caption one or more, found {row!r}")
    yield from ((file, caption) for caption in captions if caption is not None)


def text_captions(data: bytes, where: str) -> list[str]:
    """The captions of a .txt beside an image, one a line; UserError where it is not UTF-8."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{where} cannot be read as UTF-8 text ({error}); mend it") from error
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]
