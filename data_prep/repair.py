"""Image shards made again from the folder they were packed from; `encode` does the same for latents (`redo`)."""

import os
import shutil
from collections.abc import Collection
from pathlib import Path

from clipgen.data.atomic import explained
from clipgen.data.manifest import Manifest, Shard
from clipgen.errors import UserError
from data_prep.captions import Captions
from data_prep.convert import PackSettings
from data_prep.pack import pack


def repair_images(
    shards: str | Path,
    broken: Collection[str],
    images: str | Path,
    captions: Captions | None = None,
    workers: int = 1,
) -> None:
    """Pack `images` once more, beside `shards` and with their settings, and take the `broken` shards from there.

    No other shard is touched. Raises UserError, with nothing changed, when one comes out with other bytes than its
    manifest says, as when the folder or the captions have changed since.
    """
    shards = Path(shards)
    manifest = Manifest.load(shards, "images")
    wanted = [shard for shard in manifest.shards if shard.name in broken]
    fresh = shards / ".repair"
    try:
        settings = PackSettings(**manifest.made_by["prep"])
        made = {shard.name: shard for shard in pack(images, fresh, settings, workers, captions, replace=True).shards}
        _stop_when_otherwise(wanted, made, shards, images)
        with explained(shards):
            for shard in wanted:
                os.replace(fresh / shard.name, shards / shard.name)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _stop_when_otherwise(wanted: list[Shard], made: dict[str, Shard], shards: Path, images: str | Path) -> None:
    for shard in wanted:
        if made.get(shard.name) != shard:
            raise UserError(
                f"{shards / shard.name} cannot be made again from images={images}: it would not have the bytes that "
                "its manifest says, so the images, their captions or Pillow have changed; bring these back, or run "
                "`clipgen prep` with replace=true"
            )
