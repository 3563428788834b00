"""One self-contained HTML page: its frame and stylesheet, pictures as data URIs, tables. It needs no network."""

import base64
import hashlib
import io
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from PIL import Image

SORT = """
for (const table of document.querySelectorAll("table.sortable"))
  table.tHead.rows[0].querySelectorAll("button").forEach((button, column) => button.onclick = () => {
    const head = button.parentElement, up = head.ariaSort != "ascending", value = row => row.cells[column].dataset.value
    for (const other of table.tHead.rows[0].cells) other.ariaSort = null
    head.ariaSort = up ? "ascending" : "descending"
    const order = (a, b) => isNaN(a - b) ? a.localeCompare(b) : a - b
    const rows = [...table.tBodies[0].rows].sort((a, b) =>
      (value(a) === "") - (value(b) === "") || (up ? 1 : -1) * order(value(a), value(b)))
    table.tBodies[0].append(...rows)
  })
"""
NARROW = 640  # pixels; a picture that fits into it more than once is shown larger, in whole multiples


def printable(text: str) -> str:
    """Text from anywhere without what would break a line, turn the writing round or be no Unicode."""
    return "".join(c if c.isprintable() else "�" for c in text)


def document(title: str, lead: str, body: str, notes: Sequence[str] = ()) -> str:
    """The whole page; `lead` says under the title what it is, `notes` stand above all as not complete."""
    style = files("clipgen").joinpath("page.css").read_text(encoding="utf-8")
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    aside = f"<aside><b>Not complete</b><ul>{items}</ul></aside>" if items else ""
    script, policy = "", "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    if 'class="sortable"' in body:  # the one script that a page may have
        script = f"<script>{SORT}</script>\n"
        policy += f"; script-src 'sha256-{base64.b64encode(hashlib.sha256(SORT.encode()).digest()).decode()}'"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{escape(printable(title))} · clipgen</title>
<style>{style}</style>
</head>
<body>
<header><h1>{escape(printable(title))}</h1>
<p>{escape(printable(lead))}</p></header>
<main>
{aside}
{body}
</main>
{script}</body>
</html>
"""


def section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>\n" if body else ""


def tile(name: str, value: str, more: str = "") -> str:
    return f'<div class="tile"><span>{escape(name)}</span><strong>{escape(value)}</strong>{more}</div>'


def embed(path: Path, notes: list[str], widest: int, caption: str, least: int = 0) -> str:
    """A <figure> with the picture as a data URI, made smaller when wider than `widest` pixels.

    It is as wide as the page lets it be, but no less than `least` pixels: then it scrolls. A picture that cannot be
    read becomes a line in `notes`.
    """
    try:
        content = path.read_bytes()
        with Image.open(path) as image:
            image.load()
            kind = image.format or "PNG"
            if image.width > widest:
                image = image.convert("RGB").resize((widest, round(image.height * widest / image.width)), Image.LANCZOS)
                buffer = io.BytesIO()
                image.save(buffer, kind := "WEBP", quality=90)
                content = buffer.getvalue()
            width, height = image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # what Pillow raises on bad files
        notes.append(f"{'/'.join(path.parts[-3:])} is not a readable picture")
        return ""
    source = _uri(kind, content)
    text, times = escape(caption), max(1, NARROW // width)
    style = f"width:min({width * times}px,max(100%,{least}px))" + (";image-rendering:pixelated" if times > 1 else "")
    picture = f'<img src="{source}" width="{width}" height="{height}" style="{style}" alt="{text}">'
    return f'<figure class="picture"><div>{picture}</div><figcaption>{text}</figcaption></figure>'


def thumbnails(figures: Iterable[tuple[Sequence[Image.Image], str]], cell: int) -> str:
    """Pictures, one or more to a caption, each shown in a square of `cell` pixels."""
    html = ""
    for pictures, caption in figures:
        images = "".join(f'<img src="{_uri("PNG", _png(picture, 2 * cell))}" alt="">' for picture in pictures)
        html += f"<figure><div>{images}</div><figcaption>{escape(printable(caption)[:200])}</figcaption></figure>"
    return f'<div class="sheet" style="--cell:{cell}px">{html}</div>' if html else ""


def _png(picture: Image.Image, most: int) -> bytes:
    buffer, small = io.BytesIO(), picture.convert("RGB")
    small.thumbnail((most, most))  # sharp on screens of two pixels a pixel; smaller ones stay as they are
    small.save(buffer, "PNG")
    return buffer.getvalue()


def _uri(kind: str, content: bytes) -> str:
    return f"data:{Image.MIME[kind]};base64,{base64.b64encode(content).decode()}"


def table(rows: Iterable[Sequence[Any]], head: Sequence[str] = ()) -> str:
    """A table whose first column names the row; all cells are escaped."""
    top = f"<thead><tr>{''.join(f'<th>{escape(cell)}</th>' for cell in head)}</tr></thead>" if head else ""
    body = "".join(
        f"<tr><th>{escape(str(name))}</th>{''.join(f'<td>{escape(str(cell))}</td>' for cell in cells)}</tr>"
        for name, *cells in rows
    )
    return f'<div class="wide"><table>{top}<tbody>{body}</tbody></table></div>'


def sortable(rows: Iterable[Sequence[tuple[str, Any]]], head: Sequence[str]) -> str:
    """A table that a click on a column's name sorts; a cell is (what is shown, what it is sorted by, None as last)."""
    breakable = [escape(name).replace(".", ".<wbr>") for name in head]
    top = "".join(f"<th><button>{name}</button></th>" for name in breakable)
    body = ""
    for row in rows:
        keys = ["" if value is None else escape(str(value)) for _, value in row]
        cells = [f'<td data-value="{key}">{escape(shown)}</td>' for key, (shown, _) in zip(keys, row, strict=True)]
        body += f"<tr>{''.join(cells)}</tr>"
    return f'<div class="wide"><table class="sortable"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def details(summary: str, body: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"
