"""Preparing photos, beside img2dataset and a plain Pillow loop; reading shards with all decoding, beside webdataset.

img2dataset stays in an environment of its own: `python3.11 -m venv FOLDER && FOLDER/bin/pip install -r
benchmarks/peers.txt`, then say IMG2DATASET_PYTHON=FOLDER/bin/python. The limit of preparing is decoding the JPEGs
alone, that of reading is the bare tar. Each subject is a function that returns rows; the last lines say which.
"""

import os
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
import webdataset
from prep import prep_rows
from table import row, seconds, show

from clipgen.data.manifest import Manifest
from clipgen.data.module import LatentData
from clipgen.data.sample import decode_npy, latent_sample, sample_key
from clipgen.data.shards import ShardSet, shard_name, write_shard
from clipgen.data.stream import order

SHARDS, SAMPLES, BATCH, EPOCHS = 8, 250, 250, 4
GRID, EMBEDDING = (16, 16), 512  # 256 px at f16, ViT-B


def write_latents(folder: Path) -> list[str]:
    """Shards of random latents, three members a sample; their paths."""
    random = np.random.default_rng(0)
    shards = []
    for number in range(SHARDS):
        samples = (
            latent_sample(
                sample_key(number * SAMPLES + i),
                random.integers(0, 1024, (1, *GRID), np.uint16),
                random.standard_normal((1, EMBEDDING), np.float32),
                {"source": f"a/b/{i}.jpg", "sha256": "0" * 64, "width": 256, "height": 256},
            )
            for i in range(SAMPLES)
        )
        shards.append(write_shard(folder / shard_name("train", number), samples))
    Manifest("latents", shards, {"fingerprint": "benchmark"}).save(folder)
    return [str(folder / shard.name) for shard in shards]


def read_rows(folder: Path, shards: list[str]) -> list[dict]:
    """Training batches of latents: from the tars by one process and by two, and from memory."""
    n = EPOCHS * SHARDS * SAMPLES

    def ours(workers: int, memory: int) -> torch.utils.data.DataLoader:
        data = LatentData(folder, BATCH, n // BATCH, num_workers=workers, memory_limit_bytes=memory)
        data.setup("fit")
        return data.train_dataloader()

    def peer(workers: int, decode: bool) -> torch.utils.data.DataLoader:
        stream = webdataset.WebDataset(shards, shardshuffle=SHARDS, empty_check=False, workersplitter=by_worker)
        stream = stream.shuffle(SAMPLES).map(arrays).batched(BATCH) if decode else stream.batched(BATCH, list)
        return torch.utils.data.DataLoader(stream.repeat(EPOCHS), batch_size=None, num_workers=workers)

    def run(loader: torch.utils.data.DataLoader) -> None:
        for _ in loader:
            pass

    rows = []
    for name, workers, memory in (
        ("read latents from shards", 0, 0),
        ("read latents from shards, 2 processes", 2, 0),
        ("read latents held in memory", 0, 2 << 30),
    ):
        mine, theirs = seconds(partial(run, ours(workers, memory)), partial(run, peer(workers, True)), rounds=3)
        bare, _ = seconds(partial(run, peer(workers, False)), lambda: None, rounds=3)
        rows.append(row(name, "/s", n / mine, n / theirs, "webdataset, .npy decoded", n / bare))
    return rows


def by_worker(urls: Iterator[str]) -> Iterator[str]:
    """Shards split over the workers; without workers all of them."""
    worker = torch.utils.data.get_worker_info()
    yield from urls if worker is None else list(urls)[worker.id :: worker.num_workers]


def arrays(sample: dict) -> tuple[np.ndarray, np.ndarray]:
    """What a webdataset pipeline with numpy's own reader takes."""
    return tuple(np.array(webdataset.autodecode.npy_loads(sample[name])) for name in ("tokens.npy", "clip.npy"))


def window_rows(folder: Path, shards: list[str]) -> list[dict]:
    """From a cold disk to the first batch, and through an epoch: in windows of two shards, and in one over all."""
    manifest = Manifest.load(folder)
    in_windows = 2 * manifest.shards[0].bytes
    n = SHARDS * SAMPLES

    def read(window_bytes: int, samples: int) -> None:
        for path in shards:
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
        latents = ShardSet(folder, "train", manifest)
        for i in order(0, 0, n, manifest.shards, window_bytes)[:samples].tolist():
            decode_npy(latents[i]["tokens.npy"])

    rows = []
    for name, samples in (
        ("cold, first batch, windows of 2 shards", BATCH),
        ("cold, an epoch, windows of 2 shards", n),
    ):
        mine, theirs = seconds(partial(read, in_windows, samples), partial(read, 1 << 60, samples), rounds=3)
        rows.append(row(f"read {name}", "ms", 1e3 * mine, 1e3 * theirs, f"one order over {SHARDS} shards"))
    return rows


def rows() -> list[dict]:
    with tempfile.TemporaryDirectory() as made:
        found, latents = prep_rows(Path(made)), Path(made) / "latents"
        paths = write_latents(latents)
        return found + read_rows(latents, paths) + window_rows(latents, paths)


if __name__ == "__main__":
    show(rows, "Data")
