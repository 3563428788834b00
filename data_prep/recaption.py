"""Image shards whose captions came later: the same pictures under the same keys, with other texts beside them."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tqdm import tqdm

from clipgen.data.atomic import fingerprint
from clipgen.data.manifest import Manifest
from clipgen.data.sample import Sample, image_sample
from clipgen.data.shards import ShardSet, write_shard
from clipgen.data.size import IMAGE_EXTENSIONS
from clipgen.errors import UserError
from data_prep.captions import Caption


def recaption(shards: str | Path, out: str | Path, captions: Iterable[Caption]) -> Manifest:
    """Copy image shards into `out` with `captions` in the place of their own; returns the manifest of `out`.

    `captions` are pairs of a file, by its path below the folder that was packed, and a caption of it. No picture is
    decoded; keys and splits stay. What is there already is not made again. Raises UserError where no caption belongs to
    a picture, and where `out` holds other pictures or captions.
    """
    out = Path(out)
    old = Manifest.load(shards, "images")
    texts: dict[str, list[str]] = {}
    for file, caption in captions:
        texts.setdefault(file, []).append(caption)
    made_by = old.made_by | {"captions": fingerprint([old.content, texts])}
    made_by["fingerprint"] = fingerprint({key: value for key, value in made_by.items() if key != "fingerprint"})
    if Manifest.exists(out):
        there = Manifest.load(out, "images")
        if there.made_by != made_by:
            raise UserError(f"{out} holds other pictures or captions than are given now; give another name=")
        there.check(out)
        return there

    matched: set[str] = set()
    with tqdm(total=sum(shard.samples for shard in old.shards), desc="captioning", unit="img", file=sys.stderr) as bar:
        made = []
        for shard in old.shards:
            pictures = ShardSet(shards, shard.split, Manifest("images", [shard]))
            made.append(write_shard(out / shard.name, _captioned(pictures, texts, matched)))
            bar.update(shard.samples)
    if not matched:
        raise UserError(
            f"none of the {len(texts)} captions belongs to a picture in {shards}: the first is for "
            f"{next(iter(texts))!r}; give paths as they were packed, such as {_source(pictures[0])!r}"
        )
    missed = [file for file in texts if file not in matched]
    facts = old.facts | {"captioned": len(matched), "unmatched_captions": len(missed)}
    facts["first_unmatched_caption"] = missed[0] if missed else None
    manifest = Manifest("images", made, made_by, facts)
    manifest.save(out)
    return manifest


def _captioned(pictures: ShardSet, texts: Mapping[str, list[str]], matched: set[str]) -> Iterator[Sample]:
    for sample in pictures:
        extension = next(name for name in IMAGE_EXTENSIONS if name in sample)
        source = _source(sample)
        if source in texts:
            matched.add(source)
        meta = json.loads(sample["json"])
        yield image_sample(sample["__key__"], sample[extension], extension, meta, texts.get(source))


def _source(sample: Sample) -> str:
    """The path of the file that it was packed from."""
    return json.loads(sample["json"])["source"]
