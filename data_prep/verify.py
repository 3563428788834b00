"""Read every shard again against its manifest."""

from pathlib import Path

from clipgen.data.batches import read_latent
from clipgen.data.manifest import Manifest, Shard
from clipgen.data.sample import decode_captions, decode_image, decode_npy, image_bytes
from clipgen.data.shards import ShardSet, TarIndex
from clipgen.errors import UserError


def verify(folder: str | Path, images: str | Path | None = None) -> list[str]:
    """All that is wrong in a folder of shards, one line each; empty when every byte is as it was made.

    Checks sizes and sha256, the order of keys, that every sample decodes, and for latents that they have the shape of
    the first, and the keys of the `images` they were made from where that folder is given. UserError where there is
    no readable manifest.
    """
    folder = Path(folder)
    manifest = Manifest.load(folder)
    problems = manifest.problems(folder, deep=True)
    damaged = {shard.name for shard in manifest.shards if any(str(folder / shard.name) in line for line in problems)}
    last_key: dict[str, str] = {}
    shapes: set[tuple] = set()
    for shard in manifest.shards:
        if shard.name not in damaged:
            problems += _problems_in_shard(folder, shard, manifest, last_key, shapes)
    if images is not None:
        problems += _unmatched(folder, manifest, Path(images))
    return problems


def _problems_in_shard(
    folder: Path, shard: Shard, manifest: Manifest, last_key: dict[str, str], shapes: set[tuple]
) -> list[str]:
    try:
        TarIndex(folder / shard.name, shard.samples)
    except UserError as error:
        return [str(error)]
    alone = ShardSet(folder, shard.split, Manifest(manifest.kind, [shard]))
    problems = []
    for i in range(len(alone)):
        where, sample = alone.where(i), alone[i]
        previous, last_key[shard.split] = last_key.get(shard.split, ""), sample["__key__"]
        if sample["__key__"] <= previous:
            problems.append(f"{where} comes after {previous}: keys must rise")
        try:
            if manifest.kind == "images":
                decode_image(image_bytes(sample, where), where)
            else:
                problems += _problems_in_latent(alone, i, shapes)
        except UserError as error:
            problems.append(str(error))
    return problems


def _problems_in_latent(latents: ShardSet, i: int, shapes: set[tuple]) -> list[str]:
    where, sample = latents.where(i), latents[i]
    tokens, clip = read_latent(latents, i)
    problems = []
    if not shapes:
        shapes.add((tokens.shape, clip.shape))
    elif (tokens.shape, clip.shape) not in shapes:
        problems.append(f"{where} has tokens {tokens.shape} and embeddings {clip.shape}, unlike the first")
    if "text_clip.npy" in sample:
        texts, captions = decode_npy(sample["text_clip.npy"], f"{where}, text_clip.npy"), decode_captions(sample)
        if len(texts) != len(captions):
            problems.append(f"{where} has {len(captions)} captions but {len(texts)} embeddings of them")
    return problems


def _unmatched(folder: Path, manifest: Manifest, images: Path) -> list[str]:
    ours = {shard.name for shard in manifest.shards}
    theirs = {shard.name for shard in Manifest.load(images, "images").shards}
    problems = [f"{images / name} has no shard of latents in {folder}" for name in sorted(theirs - ours)]
    problems += [f"{folder / name} has no shard of images in {images}" for name in sorted(ours - theirs)]
    for name in sorted(ours & theirs):
        try:
            if TarIndex(folder / name).keys() != TarIndex(images / name).keys():
                problems.append(f"{folder / name} has other keys than {images / name}; encode it again")
        except UserError as error:
            problems.append(str(error))
    return problems
