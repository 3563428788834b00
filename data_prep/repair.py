"""Image shards made again from the images they were packed from; `encode` does the same for latents (`redo`)."""

import os
import shutil
from collections.abc import Collection, Iterator
from dataclasses import fields
from pathlib import Path

from tqdm import tqdm

from clipgen.data.atomic import explained
from clipgen.data.manifest import Manifest, Shard
from clipgen.data.sample import Sample
from clipgen.data.shards import write_shard
from clipgen.errors import UserError
from data_prep import companions, ledger
from data_prep.convert import convert
from data_prep.decode import SetAside
from data_prep.ledger import Ledger
from data_prep.pack import Captions
from data_prep.scan import PassedOver, require_images, walk
from data_prep.settings import PackSettings


def repair_images(
    shards: str | Path, broken: Collection[str], images: str | Path, captions: Captions | str | None = None
) -> None:
    """Make the `broken` shards of `shards` again from the files that files.jsonl names, with the settings of then.

    No other shard is touched. Raises UserError, with nothing changed, when one comes out with other bytes than its
    manifest says, as when the images or the captions have changed since.
    """
    shards, root = Path(shards), Path(images).resolve()
    manifest = Manifest.load(shards, "images")
    wanted = [shard for shard in manifest.shards if shard.name in broken]
    require_images(images)
    fresh = shards / ".repair"
    try:
        with ledger.told():
            seen = Ledger()
            seen.add(walk(images, PassedOver()))
            companions.read(seen, root, captions)
            seen.recall(shards / ledger.FILE_NAME, manifest.facts["seen"])
        with tqdm(desc="making shards again", total=sum(shard.samples for shard in wanted), unit=" images") as bar:
            for shard in wanted:
                made = write_shard(fresh / shard.name, _samples(shard, manifest, shards, seen, root))
                _stop_when_otherwise(shard, made, shards)
                bar.update(shard.samples)
        with explained(shards):
            for shard in wanted:
                os.replace(fresh / shard.name, shards / shard.name)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _samples(shard: Shard, manifest: Manifest, shards: Path, seen: Ledger, root: Path) -> Iterator[Sample]:
    prep = {name: value for name, value in manifest.made_by["prep"].items() if name != "clip"}
    if unknown := prep.keys() - {field.name for field in fields(PackSettings)}:
        raise UserError(
            f"{shards} is of an earlier version, with the setting prep.{min(unknown)}; run `clipgen prep` again with "
            "replace=true"
        )
    settings, threshold = PackSettings(**prep), manifest.facts["threshold"]
    number = int(shard.name.rpartition("-")[2].removesuffix(".tar"))
    for key, file in seen.packed(number * settings.samples_per_shard, (number + 1) * settings.samples_per_shard):
        try:
            made = convert(key, root, file, settings, seen.captions_of(file.path), companions.origin(seen, file))
        except SetAside as why:
            problem = f"{file.path!r} is {why.reason} now ({why.detail})"
            raise UserError(f"{shard.name} cannot be made again, as {problem}; bring the file back") from why
        if (int(made.sha256[:16], 16) < threshold) == (shard.split == "val"):
            yield made.sample


def _stop_when_otherwise(wanted: Shard, made: Shard, shards: Path) -> None:
    if made != wanted:
        raise UserError(
            f"{shards / wanted.name} cannot be made again: it would not have the bytes that its manifest says, so the "
            "images, their captions or Pillow have changed; bring these back, or run `clipgen prep` with replace=true"
        )
