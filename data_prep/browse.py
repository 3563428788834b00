"""A contact sheet of shards: what is in here? For latents, each image beside what the tokenizer makes of its tokens.

B tiles, h w token grid, H W pixels
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from clipgen.data.atomic import replacing
from clipgen.data.batches import read_latent
from clipgen.data.manifest import Manifest
from clipgen.data.sample import decode_captions, decode_image, image_bytes
from clipgen.data.shards import ShardSet
from clipgen.data.transforms import to_uint8
from clipgen.errors import UserError
from clipgen.page import document, printable, section, thumbnails
from clipgen.picture import GAP, shorten
from data_prep.crops import crops_of
from data_prep.encode import stale_shards

Decoder = Callable[[Tensor], Tensor]  # tokens (B, h, w) → images (B, 3, H, W) in [-1, 1]

SUFFIXES = (".html", ".png")
FACTS = ("seen", "written", "duplicates", "captioned", "shortest_side", "crops")  # of a manifest, in the heading
CELL = 128  # pixels of a picture's longer side
_COLUMNS = 1200  # pixels of a sheet, about
_DECODED_AT_ONCE = 64


@dataclass(frozen=True)
class Tile:
    """A sample as it is shown: one picture, or the original and its reconstruction."""

    key: str
    pictures: list[np.ndarray]  # uint8 (H, W, 3)
    words: str  # its captions, else where it came from


def browse(
    folder: str | Path,
    out: str | Path,
    images: str | Path | None = None,
    decode: Decoder | None = None,
    n: int = 60,
    split: str = "train",
) -> int:
    """Write `n` samples, evenly from a split, as one .html or .png that needs no other file; how many it shows.

    Latents need `decode`; with the `images` they were made of, the original stands at the left. Raises UserError for
    another suffix, an empty split, and latents that were made of other images.
    """
    out = Path(out)
    if out.suffix not in SUFFIXES:
        raise UserError(f"out={out} ends neither in .html nor in .png; the ending decides what is written")
    manifest = Manifest.load(folder)
    samples = ShardSet(folder, split, manifest)
    if not len(samples):
        splits = sorted({shard.split for shard in manifest.shards})
        raise UserError(f"{folder} has no sample of split={split}; take {' or '.join(splits)}")
    rows = sorted({int(row) for row in np.linspace(0, len(samples) - 1, min(n, len(samples)))})
    if manifest.kind == "images":
        tiles = [_image_tile(samples, row) for row in rows]
    else:
        assert decode is not None, "latents are looked at through a decoder"
        tiles = _latent_tiles(samples, rows, decode, None if images is None else _originals(samples, images))
    with replacing(out) as temporary:
        if out.suffix == ".html":
            temporary.write_text(_page(Path(folder), manifest, split, tiles), encoding="utf-8")
        else:
            _sheet(Path(folder), manifest, split, tiles).save(temporary, "png")
    return len(tiles)


def _image_tile(images: ShardSet, row: int) -> Tile:
    where, sample = images.where(row), images[row]
    return Tile(sample["__key__"], [decode_image(image_bytes(sample, where), where)], _words(sample))


def _originals(latents: ShardSet, images: str | Path) -> ShardSet:
    sources = Manifest.load(images, "images")
    if stale := stale_shards(latents.manifest, sources):
        raise UserError(
            f"{latents.folder / stale[0]} was made of another {stale[0]} than shards={images} has; give the shards "
            "that it was made of, or encode these again"
        )
    return ShardSet(images, latents.split, sources)


def _latent_tiles(latents: ShardSet, rows: Sequence[int], decode: Decoder, images: ShardSet | None) -> list[Tile]:
    tiles = []
    for first in range(0, len(rows), _DECODED_AT_ONCE):
        some = rows[first : first + _DECODED_AT_ONCE]
        tokens_Bhw = torch.from_numpy(np.stack([read_latent(latents, row)[0][0] for row in some]).astype(np.int64))
        for row, made_HWC in zip(some, to_uint8(decode(tokens_Bhw)).cpu().numpy(), strict=True):
            sample = latents[row]
            pictures = [made_HWC]
            if images is not None:
                original_HWC = _image_tile(images, row).pictures[0]
                crops = latents.manifest.made_by["encode"].get("crops", 1)
                pictures.insert(0, crops_of(original_HWC, made_HWC.shape[0], crops)[0])
            tiles.append(Tile(sample["__key__"], pictures, _words(sample)))
    return tiles


def _words(sample: dict) -> str:
    words = " / ".join(decode_captions(sample)) or str(json.loads(sample.get("json", b"{}")).get("source", ""))
    return printable(words)


def _about(folder: Path, manifest: Manifest, split: str, shown: int) -> list[str]:
    """The lines above the tiles: counts, and who made it."""
    splits = list(dict.fromkeys(shard.split for shard in manifest.shards))
    held = ", ".join(f"{manifest.samples(name):,} in {name}" for name in splits)
    size = sum(shard.bytes for shard in manifest.shards) / 1e6
    counts = [f"{manifest.kind}: {held}", f"{len(manifest.shards)} shards, {size:,.1f} MB", f"{shown} of {split} shown"]
    plain = {name: manifest.facts[name] for name in FACTS if manifest.facts.get(name) is not None}
    if manifest.kind == "latents":
        plain |= {"codebook": manifest.made_by["tokenizer"]["codebook_size"], "clip": manifest.made_by["clip"]["model"]}
    counts += [f"{name.replace('_', ' ')} {value}" for name, value in plain.items()]
    return [str(folder), " · ".join(counts)]


def _page(folder: Path, manifest: Manifest, split: str, tiles: list[Tile]) -> str:
    title, counts = _about(folder, manifest, split, len(tiles))
    figures = ((list(map(Image.fromarray, tile.pictures)), f"{tile.key} {tile.words}") for tile in tiles)
    two = len(tiles[0].pictures) > 1
    heading = "Left: the image, right: what the tokenizer makes of its tokens" if two else "Samples"
    return document(title, counts, section(heading, thumbnails(figures, CELL)))


def _sheet(folder: Path, manifest: Manifest, split: str, tiles: list[Tile]) -> Image.Image:
    font = ImageFont.load_default(12)
    heading, line, each = 40, 16, len(tiles[0].pictures)
    width, height = each * (CELL + GAP) + 3 * GAP, CELL + 2 * line + GAP
    columns = min(len(tiles), max(1, _COLUMNS // width))
    sheet = Image.new("RGB", (max(columns * width, 640) + GAP, heading + -(-len(tiles) // columns) * height), "white")
    pen = ImageDraw.Draw(sheet)
    for number, text in enumerate(_about(folder, manifest, split, len(tiles))):
        pen.text((GAP, 3 + number * line), shorten(pen, text, sheet.width - 2 * GAP, font), fill="black", font=font)
    for number, tile in enumerate(tiles):
        left, top = GAP + number % columns * width, heading + number // columns * height
        for place, picture_HWC in enumerate(tile.pictures):
            picture = Image.fromarray(picture_HWC)
            scale = CELL / max(picture.size)
            size = [max(1, round(side * scale)) for side in picture.size]
            picture = picture.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST)
            sheet.paste(picture, (left + place * (CELL + GAP), top))
        for number_of_line, text in enumerate((tile.key, tile.words)):
            cut = shorten(pen, " ".join(text.split()), width - GAP, font)
            pen.text((left, top + CELL + 1 + number_of_line * line), cut, fill="black", font=font)
    return sheet
