"""Every shard read again against its manifest, and latents against the images they were made of."""

from pathlib import Path
from typing import NamedTuple

from clipgen.data.batches import read_latent
from clipgen.data.manifest import Manifest, Shard
from clipgen.data.sample import decode_captions, decode_image, decode_npy, image_bytes
from clipgen.data.shards import ShardSet, TarIndex
from clipgen.errors import UserError
from data_prep.encode import stale_shards
from data_prep.statistics import STATISTICS, statistics_problem


class Problem(NamedTuple):
    """One thing that is wrong, and the file to make again, where that would mend it."""

    file: str | None
    text: str

    def __str__(self) -> str:
        return self.text


def verify(folder: str | Path, images: str | Path | None = None) -> list[Problem]:
    """All that is wrong in a folder of shards; empty when every byte is as it was made.

    Checks that exactly the shards of the manifest are there, sizes and sha256, the order of keys, that every sample
    decodes, and for latents that they have the shape of the first, the statistics, and the keys and the bytes of the
    `images` they were made from where that folder is given. UserError where there is no readable manifest.
    """
    folder = Path(folder)
    manifest = Manifest.load(folder)
    sources = None if images is None else Manifest.load(images, "images")
    last_key: dict[str, str] = {}
    shapes: set[tuple] = set()
    problems = _strangers(folder, manifest)
    for shard in manifest.shards:
        found = _problems_in_shard(folder, shard, manifest.kind, last_key, shapes)
        problems += [Problem(shard.name, text) for text in found]
    if manifest.kind == "latents" and (text := statistics_problem(folder, manifest)):
        problems.append(Problem(STATISTICS, text))
    if sources is not None:
        problems += _unmatched(folder, manifest, Path(images), sources, {problem.file for problem in problems})
    return problems


def _strangers(folder: Path, manifest: Manifest) -> list[Problem]:
    known = {shard.name for shard in manifest.shards}
    return [
        Problem(None, f"shard {path} is not in the manifest beside it, as if of another family; take it out")
        for path in sorted(folder.glob("*.tar"))
        if path.name not in known
    ]


def _problems_in_shard(folder: Path, shard: Shard, kind: str, last_key: dict[str, str], shapes: set[tuple]) -> list:
    alone = ShardSet(folder, shard.split, Manifest(kind, [shard]))
    problems = []
    for i in range(len(alone)):
        try:
            where, sample = alone.where(i), alone[i]
        except UserError as error:  # missing, cut, or of other bytes: what is in it says nothing more
            return [str(error)]
        previous, last_key[shard.split] = last_key.get(shard.split, ""), sample["__key__"]
        if sample["__key__"] <= previous:
            problems.append(f"{where} comes after {previous}: keys must rise")
        try:
            if kind == "images":
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


def _unmatched(
    folder: Path, latents: Manifest, images: Path, sources: Manifest, damaged: set[str | None]
) -> list[Problem]:
    ours, theirs = ({shard.name for shard in manifest.shards} for manifest in (latents, sources))
    stale = set(stale_shards(latents, sources))
    missing = [Problem(name, f"{images / name} has no shard of latents in {folder}") for name in sorted(theirs - ours)]
    extra = [Problem(name, f"{folder / name} has no shard of images in {images}") for name in sorted(ours - theirs)]
    problems = missing + extra
    for name in sorted((ours & theirs) - damaged):
        try:
            if name in stale:
                problems.append(Problem(name, f"{folder / name} was made of another {name} than {images} has now"))
            elif TarIndex(folder / name).keys() != TarIndex(images / name).keys():
                problems.append(Problem(name, f"{folder / name} has other keys than {images / name}; encode it again"))
        except UserError as error:  # only of the images, which are verified by themselves
            problems.append(Problem(None, str(error)))
    return problems
