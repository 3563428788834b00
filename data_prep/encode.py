"""Image shards → latent shards: the tokens and the CLIP embedding of every crop, once, under the same keys.

A latent shard has the name of its image shard and is the unit of work: finished, it leaves a note, so that a killed run
continues after its last whole shard. The manifest replaces the notes and says of which image shard each was made.

N pictures of a batch, C crops of a picture (a flip counts as one), h w token grid, E embedding size
"""

import json
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from clipgen.data.atomic import TEMPORARY, explained, fingerprint, write_json
from clipgen.data.manifest import FILE_NAME, Manifest, Shard, describe_difference
from clipgen.data.sample import Sample, decode_captions, latent_sample
from clipgen.data.shards import write_shard
from clipgen.data.size import Size
from clipgen.data.transforms import to_model_range
from clipgen.errors import UserError
from data_prep.crops import CropBatch, read_crops
from data_prep.executor import LOCAL, Executor, Tick, run
from data_prep.statistics import statistics_problem, write_statistics

Encoder = Callable[[Tensor], Tensor]

_STARTED = ".encode.json"


@dataclass(frozen=True)
class Encoders:
    """What turns images (B, 3, H, W) in [-1, 1] into tokens (B, h, w) and unit embeddings (B, E), texts too."""

    image_size: Size
    tokens: Encoder
    image: Encoder
    text: Callable[[list[str]], Tensor]
    device: torch.device
    identity: dict[str, Any]  # of tokenizer and CLIP; goes into the manifest
    precision: str = "fp32"


@dataclass(frozen=True)
class EncodeJob:
    """A latent shard to be made: all that a process on another machine needs; it makes the networks by `encoders()`."""

    encoders: Callable[[], Encoders]
    images: Path
    shard: Shard
    out: Path
    crops: int
    batch_size: int
    workers: int
    settings: str
    large: bool = False


class _Made(NamedTuple):
    """A latent shard and the sha256 of the image shard it was made of."""

    shard: Shard
    source: str

    def problems(self, out: Path, deep: bool) -> list[str]:
        return Manifest("latents", [self.shard]).problems(out, deep)


class _Latent(NamedTuple):
    """What the networks gave for a picture; its bytes are made in the thread that writes them."""

    image: Sample
    tokens_Chw: np.ndarray
    clip_CE: np.ndarray
    captions: list[str]
    text_clip_NE: np.ndarray
    large_CHW: np.ndarray | None

    def sample(self) -> Sample:
        meta, texts = json.loads(self.image["json"]), self.text_clip_NE if self.captions else None
        key = self.image["__key__"]
        return latent_sample(key, self.tokens_Chw, self.clip_CE, meta, self.captions, texts, self.large_CHW)


def encode(
    shards: str | Path,
    latents: str | Path,
    encoders: Encoders,
    texts: list[str],
    texts_from: str,
    crops: int = 1,
    batch_size: int = 256,
    workers: int = 1,
    replace: bool = False,
    redo: Collection[str] = (),
    executor: Executor = LOCAL,
    make_encoders: Callable[[], Encoders] | None = None,
    say: Callable[[str], object] = lambda line: None,
    own_captions: bool = True,
    large: bool = False,
) -> Manifest:
    """Encode every shard of `shards` into `latents` and return the manifest; what is done is not done again.

    `batch_size` counts crops, `workers` the threads that decode. `texts` need not belong to the images: the mean of
    their embeddings centres prompts later; the images' own captions, where there are enough, take their place only with
    `own_captions`. With `large` a latent has the tokens of its crops at twice the size too. Image shards that were
    added since are encoded, those of before keep their latents. Raises UserError when `latents` was made with other
    settings or networks, of image shards that have changed or gone, or when it was damaged; with `replace` just these
    shards, and those named in `redo`, are made again. An `executor` elsewhere needs `make_encoders`, which makes equal
    `encoders` there and can be pickled and hashed. `say` is told why latents are made again.
    """
    images, out = Manifest.load(shards, "images"), Path(latents)
    images.check(shards)
    made_by = _made_by(images, encoders, texts_fingerprint(texts, own_captions), crops, large)
    old = Manifest.load(out, "latents") if Manifest.exists(out) else None
    if old is not None and replace:
        if difference := describe_difference(_what_counts(old.made_by), _what_counts(made_by)):
            say(f"encode: makes {out} again, since {', '.join(difference)}")
        elif stale := stale_shards(old, images):
            say(f"encode: makes {len(stale)} shards again, since their images changed")
    elif old is not None:
        _stop_when_changed(old, made_by, images, Path(shards), out)
    sources = {shard.name: shard.sha256 for shard in images.shards}
    kept = {
        name: made
        for name, made in _finished(out, old, made_by["settings"]).items()
        if name not in redo and made.source == sources.get(name) and not made.problems(out, replace)
    }
    todo = [shard for shard in images.shards if shard.name not in kept]
    same = old is not None and old.made_by.get("fingerprint") == made_by["fingerprint"]
    if same and not todo and not statistics_problem(out, old):
        _sweep(out)
        return old
    _start(out, made_by, old, kept, replace)
    settings, left = made_by["settings"], sum(shard.samples for shard in todo)
    what = "encoding images" + (f" of {len(todo)} of {len(images.shards)} shards" if kept else "")
    if executor.kind == "local":
        batches = read_crops(Path(shards), todo, encoders.image_size, crops, batch_size, workers, large)
        with tqdm(desc=what, total=left, unit=" images", file=sys.stderr) as bar:
            kept |= _encode_shards(batches, bar.update, out, encoders, settings)
    else:
        place = (Path(shards), out, crops, batch_size, workers, settings, large)
        jobs = [EncodeJob(make_encoders, place[0], shard, *place[1:]) for shard in todo]
        run(encode_one, jobs, 1, what, left, 0, executor)
        kept |= _finished(out, None, settings)
    return _finish(out, images, encoders, texts, texts_from, own_captions, made_by, kept, old)


def texts_fingerprint(texts: list[str], own_captions: bool = True) -> str:
    """Of the texts whose mean centres prompts, and of whether captions of the images may take their place."""
    return fingerprint(texts if own_captions else {"only": texts})


def _made_by(images: Manifest, encoders: Encoders, texts: str, crops: int, large: bool) -> dict[str, Any]:
    encoded = {"image_size": encoders.image_size, "crops": crops, "precision": encoders.precision}
    encoded |= {"large": True} if large else {}  # latents of before had no choice in
    made_by = {"images": images.content, "encode": encoded, **encoders.identity, "texts": texts}
    settings = {name: value for name, value in _what_counts(made_by).items() if name != "texts"}
    made_by["settings"] = fingerprint(settings)
    return made_by | {"fingerprint": fingerprint([images.content, _what_counts(made_by)])}


def _what_counts(made_by: dict[str, Any]) -> dict[str, Any]:
    """What latents depend on: of the CLIP its weights and preprocessing, and not where they lie."""
    kept = {name: made_by.get(name) for name in ("encode", "tokenizer", "clip", "texts")}
    return kept | {"clip": {name: value for name, value in made_by["clip"].items() if name != "model"}}


def _stop_when_changed(old: Manifest, made_by: dict[str, Any], images: Manifest, shards: Path, out: Path) -> None:
    if difference := describe_difference(_what_counts(old.made_by), _what_counts(made_by)):
        raise UserError(
            f"latents={out} was made otherwise ({', '.join(difference)}); give another folder, or replace=true"
        )
    if stale := stale_shards(old, images):
        raise UserError(
            f"{out / stale[0]} was made of another {stale[0]} than shards={shards} has now"
            f"{f' (and {len(stale) - 1} more)' if len(stale) > 1 else ''}; give the shards it was made of, another "
            "latents=FOLDER, or replace=true to make just these again"
        )
    old.check(out)
    if problem := statistics_problem(out, old):
        raise UserError(problem)


def stale_shards(latents: Manifest, images: Manifest) -> list[str]:
    """The latent shards of which the image shard has changed or gone since."""
    now = {shard.name: shard.sha256 for shard in images.shards}
    return [name for name, source in latents.facts.get("sources", {}).items() if now.get(name) != source]


def _finished(out: Path, old: Manifest | None, settings: str) -> dict[str, _Made]:
    """What a manifest or the notes of an unfinished run have that was made with the same settings."""
    found = {}
    if old is not None and old.made_by.get("settings") == settings:
        found = {shard.name: _Made(shard, old.facts["sources"][shard.name]) for shard in old.shards}
    for path in sorted(out.glob(".note-*.json")):
        try:
            note = json.loads(path.read_text())
            made = _Made(Shard(**note["shard"]), note["source"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if note.get("settings") == settings:
            found[made.shard.name] = made
    return found


def _start(out: Path, made_by: dict, old: Manifest | None, kept: dict[str, _Made], replace: bool) -> None:
    """Mark `out` as being encoded into, before anything is computed; a manifest stays unless its shards will change."""
    ours = old is not None or (out / _STARTED).exists() or replace
    if not ours and (strangers := sorted(out.glob("*.tar"))):
        raise UserError(
            f"latents={out} holds {strangers[0].name} but no manifest; give an empty folder, or replace=true"
        )
    write_json(out / _STARTED, made_by)
    if old is not None and any(shard.name not in kept for shard in old.shards):
        for made in kept.values():
            _write_note(out, made, made_by["settings"])
        with explained(out):
            (out / FILE_NAME).unlink()


def encode_one(job: EncodeJob, tick: Tick) -> None:
    """Make one latent shard, and a note beside it that says so."""
    encoders = _made_here(job.encoders)
    size, how = encoders.image_size, (job.crops, job.batch_size, job.workers, job.large)
    batches = read_crops(job.images, [job.shard], size, *how)
    _encode_shards(batches, lambda n: [tick() for _ in range(n)], job.out, encoders, job.settings)


@lru_cache(maxsize=1)
def _made_here(encoders: Callable[[], Encoders]) -> Encoders:
    return encoders()  # once a process, not once a shard


def _encode_shards(
    batches: Iterable[CropBatch], done: Callable[[int], object], out: Path, encoders: Encoders, settings: str
) -> dict[str, _Made]:
    """Three things at once: decoding ahead, the networks (in this thread), and writing the shard before."""
    latents: list[_Latent] = []
    writing: list[Future[_Made]] = []
    with ThreadPoolExecutor(1) as writer:
        for batch in batches:
            latents += _encoded(batch, encoders)
            done(len(batch.samples))
            if len(latents) == batch.shard.samples:
                if writing:
                    writing[-1].result()  # so that the latents of two shards at most are held
                writing.append(writer.submit(_write, out, batch.shard, latents, settings))
                latents = []
    return {made.shard.name: made for made in (written.result() for written in writing)}


@torch.no_grad()
def _encoded(batch: CropBatch, encoders: Encoders) -> list[_Latent]:
    N = len(batch.crops_NCHW3)
    image = _image(batch.crops_NCHW3, encoders.device)
    tokens = _tokens(encoders.tokens(image), N)
    clip = encoders.image(image).unflatten(0, (N, -1)).cpu().numpy().astype(np.float16)
    large: Sequence = [None] * N
    if batch.large_NCHW3 is not None:  # in quarters, which take as much memory as what is above
        quarters = _image(batch.large_NCHW3, encoders.device).chunk(4)
        large = _tokens(torch.cat([encoders.tokens(part) for part in quarters]), N)
    captions = [decode_captions(sample) for sample in batch.samples]
    flat = [caption for own in captions for caption in own]
    texts = encoders.text(flat).cpu().numpy().astype(np.float16) if flat else np.empty((0, clip.shape[-1]), np.float16)
    ends = np.cumsum([len(own) for own in captions])
    texts = np.split(texts, ends[:-1])
    return [_Latent(*each) for each in zip(batch.samples, tokens, clip, captions, texts, large, strict=True)]


def _image(crops_NCHW3: np.ndarray, device: torch.device) -> Tensor:
    return to_model_range(torch.from_numpy(crops_NCHW3).flatten(0, 1).to(device))


def _tokens(tokens_Bhw: Tensor, pictures: int) -> np.ndarray:
    return tokens_Bhw.unflatten(0, (pictures, -1)).cpu().numpy().astype(np.uint16)


def _write(out: Path, source: Shard, latents: list[_Latent], settings: str) -> _Made:
    made = _Made(write_shard(out / source.name, (latent.sample() for latent in latents)), source.sha256)
    _write_note(out, made, settings)
    return made


def _write_note(out: Path, made: _Made, settings: str) -> None:
    note = {"settings": settings, "source": made.source, "shard": asdict(made.shard)}
    write_json(out / f".note-{made.shard.name}.json", note)


def _finish(
    out: Path,
    images: Manifest,
    encoders: Encoders,
    texts: list[str],
    texts_from: str,
    own_captions: bool,
    made_by: dict[str, Any],
    made: dict[str, _Made],
    old: Manifest | None,
) -> Manifest:
    """Write statistics and manifest, and take away what is left of runs before."""
    in_order = [made[shard.name] for shard in images.shards]
    manifest = Manifest("latents", [each.shard for each in in_order], made_by)
    facts = write_statistics(out, manifest, encoders.text(texts), texts_from, own_captions)
    crops = made_by["encode"]["crops"]
    sources = {each.shard.name: each.source for each in in_order}
    manifest.facts = {**facts, "crops": crops, "sources": sources}
    with explained(out):
        earlier = [path.name.removeprefix(".note-").removesuffix(".json") for path in out.glob(".note-*.json")]
        for name in {*earlier, *(shard.name for shard in (old.shards if old else ()))} - set(made):
            (out / name).unlink(missing_ok=True)
        manifest.save(out)
    _sweep(out)
    return manifest


def _sweep(out: Path) -> None:
    with explained(out):
        for pattern in (".note-*.json", _STARTED, TEMPORARY):
            for path in out.glob(pattern):
                path.unlink(missing_ok=True)
