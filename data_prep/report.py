"""prep_report.html: what was packed and what was not, on one page of one file that needs nothing else."""

import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from PIL import Image

from clipgen.data.atomic import replacing
from clipgen.data.manifest import Manifest
from clipgen.data.sample import image_bytes
from clipgen.data.shards import TarIndex
from clipgen.page import document, section, table, thumbnails
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
    "format": "no image, or not of a format that is taken",
    "hidden": "hidden, or litter of an operating system",
    "metadata": "JSON that went along with its image",
    "special": "links, devices and sparse files in tars",
    "too_large": "files too large to hold",
    "too_many_pixels": "more pixels than allowed, told by the header",
    "too_small": "a side too short",
    "unreadable": "broken, cut short, or not to be opened",
    "unwritable": "not to be written in the chosen format",
}


def write(path: Path, manifest: Manifest, out: Path, root: Path, seen: Ledger, files: int, seconds: float) -> None:
    """Write the page; `files` are those of this run, which took `seconds`."""
    with replacing(path) as temporary:
        temporary.write_text(_page(manifest, out, root, seen, files, seconds), encoding="utf-8")


def _page(manifest: Manifest, out: Path, root: Path, seen: Ledger, files: int, seconds: float) -> str:
    facts = manifest.facts
    set_aside = sum(facts["set_aside"].values())
    counts = {
        "Files seen": facts["seen"],
        "Written": facts["written"],
        "Duplicates": facts["duplicates"],
        "Set aside": set_aside,
        "To train on": manifest.samples("train"),
        "To validate": manifest.samples("val"),
        "With captions": facts["captioned"],
        "Captions of no image": facts["unmatched_captions"],
        "Rows that img2dataset could not get": facts.get("img2dataset_failed_rows", 0),
        "Links not followed": facts["links"],
    }
    copies = (([_thumbnail(root, file)], f"{file.path} is {first}") for file, first in seen.copies(EXAMPLES))
    sides = {f"{side} to {2 * int(side) - 1} pixels": count for side, count in facts["sides"].items()}
    shards = [[s.name, f"{s.samples:,}", f"{s.bytes:,}", f"{s.sha256[:12]}…"] for s in manifest.shards]
    parts = [
        '<div class="pair">',
        section("Counts", _numbers(counts)),
        section("What they came as", _numbers(facts["formats"])),
        section("Shorter side they came with", _numbers(sides)),
        "</div>",
        section("Examples", thumbnails(_samples(manifest, out), CELL)),
        section(f"Duplicates: {facts['duplicates']:,}", _sheet(copies) if facts["duplicates"] else ""),
        *(_reason(root, seen, reason, count) for reason, count in facts["set_aside"].items()),
        section(f"Shards: {len(shards):,}", table(shards, ["Shard", "Samples", "Bytes", "sha256"])),
        section("Settings", table(manifest.made_by["prep"].items())),
    ]
    title = f"{facts['written']:,} images from {root}"
    speed = f"{files / max(seconds, 1e-9):,.1f} a second"
    return document(title, f"This run went through {files:,} files in {seconds:,.1f} s: {speed}.", "".join(parts))


def _numbers(counts: Mapping[str, int]) -> str:
    return table((name, f"{count:,}") for name, count in counts.items()) if counts else ""


def _reason(root: Path, seen: Ledger, reason: str, count: int) -> str:
    examples = (([_thumbnail(root, file)], f"{file.path}: {file.detail}") for file in seen.examples(reason, EXAMPLES))
    why = f"<p>{REASONS.get(reason, '')}; quarantine.jsonl lists all.</p>"
    return section(f"Set aside as {reason}: {count:,}", why + _sheet(examples))


def _sheet(figures: Iterable[tuple[list[Image.Image | None], str]]) -> str:
    return thumbnails((([p for p in pictures if p], text) for pictures, text in figures), CELL)


def _samples(manifest: Manifest, out: Path) -> Iterator[tuple[list[Image.Image], str]]:
    shards = manifest.shards[:: max(1, len(manifest.shards) // 6)][:6]
    for shard in shards:
        index, each = TarIndex(out / shard.name), -(-SHOWN // len(shards))
        for row in range(0, len(index), max(1, len(index) // each))[:each]:
            sample = index[row]
            with Image.open(io.BytesIO(image_bytes(sample))) as image:
                yield [image], sample["__key__"]


def _thumbnail(root: Path, file: SourceFile) -> Image.Image | None:
    if file.reason in ("too_large", "special"):
        return None
    try:
        return decode(file.read(root), MOST_PIXELS)
    except (SetAside, OSError):
        return None
