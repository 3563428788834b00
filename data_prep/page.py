"""prep_report.html: what was packed and what was not, on one page of one file that needs nothing else."""

import base64
import io
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from clipgen.data.atomic import replacing
from clipgen.data.manifest import Manifest
from clipgen.data.sample import image_bytes
from clipgen.data.shards import TarIndex
from data_prep.decode import SetAside, decode
from data_prep.ledger import Ledger
from data_prep.scan import SourceFile

CELL = 96  # pixels of a thumbnail
SHOWN = 24  # samples on the page
EXAMPLES = 6  # of each reason
MOST_PIXELS = 20_000_000  # a thumbnail is not worth more

REASONS = {
    "aspect": "too long for their shorter side",
    "caption": "texts whose captions went along with their image",
    "clip_score": "too unlike the words asked for",
    "format": "no image of a known format",
    "hidden": "hidden, or litter of an operating system",
    "metadata": "JSON that went along with its image",
    "special": "links, devices and sparse files in tars",
    "too_large": "files too large to hold",
    "too_many_pixels": "more pixels than allowed, told by the header",
    "too_small": "a side too short",
    "unreadable": "broken, cut short, or not to be opened",
    "unwritable": "not to be written in the chosen format",
}
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
@media (prefers-color-scheme: dark) { body { background: #161616; color: #ddd } th { border-color: #444 !important } }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem }
table { border-collapse: collapse } th, td { text-align: left; padding: .15rem 1.2rem .15rem 0; vertical-align: top }
th { border-bottom: 1px solid #ccc; font-weight: 600 } td.n { text-align: right; font-variant-numeric: tabular-nums }
figure { display: inline-block; margin: 0 .6rem .6rem 0; width: 96px; vertical-align: top }
figcaption { font-size: .7rem; overflow-wrap: anywhere } img { display: block; max-width: 96px }
"""


def write(path: Path, manifest: Manifest, out: Path, root: Path, seen: Ledger, files: int, seconds: float) -> None:
    """Write the page; `files` are those of this run, which took `seconds`."""
    with replacing(path) as temporary:
        temporary.write_text("".join(_page(manifest, out, root, seen, files, seconds)), encoding="utf-8")


def _page(manifest: Manifest, out: Path, root: Path, seen: Ledger, files: int, seconds: float) -> Iterator[str]:
    facts = manifest.facts
    title = escape(f"{facts['written']:,} images from {printable(str(root))}")
    yield f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<h1>{title}</h1>"
    set_aside = sum(facts["set_aside"].values())
    yield _table(
        {
            "files seen": facts["seen"],
            "written": facts["written"],
            "duplicates": facts["duplicates"],
            "set aside": set_aside,
            "to train on": manifest.samples("train"),
            "to validate": manifest.samples("val"),
            "with captions": facts["captioned"],
            "captions of no image": facts["unmatched_captions"],
            "rows that img2dataset could not get": facts.get("img2dataset_failed_rows", 0),
            "links not followed": facts["links"],
        }
    )
    speed = f"{files / max(seconds, 1e-9):,.1f} a second"
    yield f"<p>This run went through {files:,} files in {seconds:,.1f} s: {speed}.</p>"
    yield "<h2>Examples</h2>" + "".join(_samples(manifest, out))
    yield "<h2>Formats they came in</h2>" + _table(facts["formats"])
    yield "<h2>Shorter side they came with, in pixels</h2>"
    yield _table({f"{side} to {2 * int(side) - 1}": count for side, count in facts["sides"].items()})
    if facts["duplicates"]:
        yield f"<h2>Duplicates: {facts['duplicates']:,}</h2>"
        for file, first in seen.copies(EXAMPLES):
            yield _figure(_thumbnail(root, file), f"{file.path} is {first}")
    if set_aside:
        yield f"<h2>Set aside: {set_aside:,}</h2><p>quarantine.jsonl lists all.</p>"
    for reason, count in facts["set_aside"].items():
        yield f"<h2>{escape(reason)}: {count:,}</h2><p>{escape(REASONS.get(reason, ''))}</p>"
        for file in seen.examples(reason, EXAMPLES):
            yield _figure(_thumbnail(root, file), f"{file.path}: {file.detail}")
    yield f"<h2>Shards: {len(manifest.shards):,}</h2><table><tr><th>shard<th>samples<th>bytes<th>sha256</tr>"
    for shard in manifest.shards:
        yield f'<tr><td>{escape(shard.name)}<td class="n">{shard.samples:,}<td class="n">{shard.bytes:,}'
        yield f"<td>{shard.sha256[:12]}…</tr>"
    yield "</table><h2>Settings</h2>" + _table(manifest.made_by["prep"]) + "</html>\n"


def _table(rows: Mapping[str, Any]) -> str:
    def cell(value: Any) -> str:
        return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else escape(str(value))

    lines = (f'<tr><td>{escape(name)}<td class="n">{cell(value)}</tr>' for name, value in rows.items())
    return f"<table>{''.join(lines)}</table>"


def _samples(manifest: Manifest, out: Path) -> Iterator[str]:
    shards = manifest.shards[:: max(1, len(manifest.shards) // 6)][:6]
    for shard in shards:
        index, each = TarIndex(out / shard.name), -(-SHOWN // len(shards))
        for row in range(0, len(index), max(1, len(index) // each))[:each]:
            sample = index[row]
            with Image.open(io.BytesIO(image_bytes(sample))) as image:
                yield _figure(_inline(image.convert("RGB")), sample["__key__"])


def _thumbnail(root: Path, file: SourceFile) -> str:
    if file.reason in ("too_large", "special"):
        return ""
    try:
        return _inline(decode(file.read(root), MOST_PIXELS))
    except (SetAside, OSError):
        return ""


def _inline(image: Image.Image) -> str:
    image.thumbnail((CELL, CELL))
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", quality=80)
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def _figure(image: str, text: str) -> str:
    return f"<figure>{image}<figcaption>{escape(printable(text))}</figcaption></figure>"


def printable(text: str) -> str:
    """Text from anywhere without what would break a line, turn the writing round or be no Unicode."""
    return "".join(c if c.isprintable() else "�" for c in text)[:200]
