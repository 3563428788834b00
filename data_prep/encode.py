"""Image shards → latent shards: the tokens and the CLIP embedding of every crop, once, under the same keys.

A latent shard has the name of its image shard and is the unit of work; the manifest comes last.

B batch, C crops of a picture (a flip counts as one), h w token grid, E embedding size
"""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipgen.checkpoint import save_weights
from clipgen.data.atomic import TEMPORARY, explained, fingerprint, write_json
from clipgen.data.manifest import FILE_NAME, Manifest, Shard, describe_difference
from clipgen.data.sample import Sample, decode_captions, decode_image, image_bytes, latent_sample
from clipgen.data.shards import ShardSet, write_shard
from clipgen.data.transforms import center_crop, to_model_range
from clipgen.errors import UserError
from data_prep.executor import LOCAL, Executor, Tick, run

STATISTICS = "statistics.safetensors"
AHEAD = 2  # batches that are decoded while the networks work

Encoder = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Encoders:
    """What turns images (B, 3, S, S) in [-1, 1] into tokens (B, h, w) and unit embeddings (B, E), texts too."""

    image_size: int
    tokens: Encoder
    image: Encoder
    text: Callable[[list[str]], Tensor]
    device: torch.device
    identity: dict[str, Any]  # of tokenizer and CLIP; goes into the manifest


@dataclass(frozen=True)
class EncodeJob:
    """A latent shard to be made: all that a process on another machine needs; it makes the networks by `encoders()`."""

    encoders: Callable[[], Encoders]
    images: Path
    shard: Shard
    out: Path
    flip: bool
    batch_size: int
    fingerprint: str


def encode(
    shards: str | Path,
    latents: str | Path,
    encoders: Encoders,
    texts: list[str],
    texts_from: str,
    flip: bool = False,
    batch_size: int = 256,
    replace: bool = False,
    executor: Executor = LOCAL,
    make_encoders: Callable[[], Encoders] | None = None,
) -> Manifest:
    """Encode every shard of `shards` into `latents` and return the manifest; finished shards are not done again.

    `texts` need not belong to the images: the mean of their embeddings centres prompts later. An `executor` elsewhere
    needs `make_encoders`, which makes equal `encoders` there and can be pickled and hashed. Raises UserError when
    `latents` was made from other images, by another tokenizer or another CLIP, unless `replace`.
    """
    images, out = Manifest.load(shards, "images"), Path(latents)
    images.check(shards)
    made_by = {
        "images": images.content,
        "encode": {"image_size": encoders.image_size, "flip": flip},
        **encoders.identity,
        "texts": fingerprint(texts),
    }
    made_by["fingerprint"] = fingerprint(made_by)
    if Manifest.exists(out):
        old = Manifest.load(out, "latents")
        if old.made_by["fingerprint"] == made_by["fingerprint"]:
            old.check(out)
            return old
        if not replace:
            difference = ", ".join(describe_difference(old.made_by, made_by))
            raise UserError(f"latents={out} was made otherwise ({difference}); give another folder, or replace=true")
    with explained(out):
        (out / FILE_NAME).unlink(missing_ok=True)
    make = make_encoders if executor.kind != "local" else lambda: encoders
    jobs = [
        EncodeJob(make, Path(shards), shard, out, flip, batch_size, made_by["fingerprint"]) for shard in images.shards
    ]
    to_do = [job for job in jobs if _finished(job) is None]
    total, left = (sum(job.shard.samples for job in some) for some in (jobs, to_do))
    try:
        run(encode_one, to_do, 1, "encoding images", total, total - left, executor)
    finally:
        _made.cache_clear()
    notes = [_finished(job) for job in jobs]
    _write_statistics(out, images, encoders, texts)
    facts = {"texts": len(texts), "texts_from": texts_from, "crops": 1 + flip}
    manifest = Manifest("latents", notes, made_by, facts)
    with explained(out):
        kept = {shard.name for shard in notes}
        strangers = [path for path in out.glob("*.tar") if path.name not in kept]
        for path in strangers + list(out.glob(TEMPORARY)):
            path.unlink()
        manifest.save(out)
        for path in out.glob(".note-*.json"):
            path.unlink()
    return manifest


def encode_one(job: EncodeJob, tick: Tick) -> None:
    """Make one latent shard, and a note beside it that says so."""
    alone = ShardSet(job.images, job.shard.split, Manifest("images", [job.shard]))
    made = write_shard(job.out / job.shard.name, _latents(alone, _made(job.encoders), job.flip, job.batch_size, tick))
    write_json(_note(job), {"fingerprint": job.fingerprint, "shard": asdict(made)})


@lru_cache(maxsize=1)
def _made(encoders: Callable[[], Encoders]) -> Encoders:
    return encoders()  # once a process, not once a shard


def _note(job: EncodeJob) -> Path:
    return job.out / f".note-{job.shard.name}.json"


def _finished(job: EncodeJob) -> Shard | None:
    try:
        content = json.loads(_note(job).read_text())
        shard = Shard(**content["shard"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if content["fingerprint"] != job.fingerprint or Manifest("latents", [shard]).problems(job.out):
        return None
    return shard


def _latents(images: ShardSet, encoders: Encoders, flip: bool, batch_size: int, tick: Tick) -> Iterator[Sample]:
    """Decoding runs ahead in a thread while the networks work."""
    starts = range(0, len(images), batch_size)
    with ThreadPoolExecutor(1) as pool:
        pending = [pool.submit(_decoded, images, start, batch_size, encoders.image_size) for start in starts[:AHEAD]]
        for number in range(len(starts)):
            samples, pixels_BSS3 = pending.pop(0).result()
            if number + AHEAD < len(starts):
                pending.append(pool.submit(_decoded, images, starts[number + AHEAD], batch_size, encoders.image_size))
            image_BCHW = to_model_range(torch.from_numpy(pixels_BSS3).to(encoders.device))
            crops = [image_BCHW, image_BCHW.flip(-1)] if flip else [image_BCHW]
            tokens_BChw = torch.stack([encoders.tokens(crop) for crop in crops], 1).cpu().numpy().astype(np.uint16)
            clip_BCE = torch.stack([encoders.image(crop) for crop in crops], 1).cpu().numpy()
            for sample, tokens_Chw, clip_CE in zip(samples, tokens_BChw, clip_BCE, strict=True):
                captions = decode_captions(sample)
                text_clip = encoders.text(captions).cpu().numpy() if captions else None
                meta = json.loads(sample["json"])
                yield latent_sample(sample["__key__"], tokens_Chw, clip_CE, meta, captions or None, text_clip)
                tick()


def _decoded(images: ShardSet, start: int, batch_size: int, size: int) -> tuple[list[Sample], np.ndarray]:
    samples, pixels = [], []
    for i in range(start, min(start + batch_size, len(images))):
        where, sample = images.where(i), images[i]
        image_HWC = decode_image(image_bytes(sample, where), where)
        if min(image_HWC.shape[:2]) < size:
            raise UserError(f"{where} is smaller than tokenizer.image_size {size}; pack again with prep.size={size}")
        samples.append(sample)
        pixels.append(center_crop(image_HWC, size))
    return samples, np.stack(pixels)


def _write_statistics(out: Path, images: Manifest, encoders: Encoders, texts: list[str]) -> None:
    """Mean and covariance of the training images' embeddings and of the texts', in float64 sums, stored as float32."""
    clip_NE = _train_embeddings(out, images)
    text_NE = encoders.text(texts).double().cpu()
    tensors = {}
    for name, rows_NE in (("image", clip_NE), ("text", text_NE)):
        tensors[f"{name}_mean"] = rows_NE.mean(0).float()
        tensors[f"{name}_covariance"] = torch.cov(rows_NE.T, correction=0).float().reshape(rows_NE.shape[1], -1)
        tensors[f"{name}_count"] = torch.tensor(len(rows_NE))
    save_weights(tensors, out / STATISTICS)


def _train_embeddings(out: Path, images: Manifest) -> Tensor:
    from clipgen.data.batches import read_latent

    names = [Shard(s.name, s.split, s.samples, 0, "") for s in images.of_split("train")]
    latents = ShardSet(out, "train", Manifest("latents", names))
    return torch.cat([torch.from_numpy(read_latent(latents, i)[1]).double() for i in range(len(latents))])
