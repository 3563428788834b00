"""SIGKILL at random moments: the latents become those of an unbroken run, and no finished shard is made twice."""

import contextlib
import io
import multiprocessing
import random
import threading
import time
from pathlib import Path

import pytest
import torch
from tqdm import tqdm

from clipgen.data.manifest import Manifest
from data_prep.encode import Encoders, encode

# networks of a few lines: what is killed here is reading, writing, and the order of things
IDENTITY = {"tokenizer": {"sha256": "3f9c", "codebook_size": 256}, "clip": {"fingerprint": "81d0"}}


def tokens(image_BCHW: torch.Tensor) -> torch.Tensor:
    time.sleep(0.002)
    return (image_BCHW[:, 0, ::4, ::4] * 127 + 128).long()


def embeddings(image_BCHW: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(image_BCHW.mean((2, 3)) + 0.1, dim=-1)


def texts(words: list[str]) -> torch.Tensor:
    return torch.eye(3)[[len(word) % 3 for word in words]]


def make(images: Path, latents: Path) -> None:
    with contextlib.redirect_stderr(io.StringIO()):
        encoders = Encoders(8, tokens, embeddings, texts, torch.device("cpu"), IDENTITY)
        encode(images, latents, encoders, ["a", "bb"], "the test", crops=2, batch_size=4, workers=2)


def make_until_killed(images: Path, latents: Path) -> None:
    tqdm.set_lock(threading.RLock())  # else a bar's lock is shared with the test, and killed with it held
    make(images, latents)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def finished(folder: Path) -> dict[str, tuple[int, int]]:
    """The shards that have a note: which file each is, on the disk."""
    noted = [path.name.removeprefix(".note-").removesuffix(".json") for path in folder.glob(".note-*.json")]
    return {name: ((folder / name).stat().st_ino, (folder / name).stat().st_mtime_ns) for name in noted}


@pytest.mark.parametrize("kills", [4, pytest.param(30, marks=pytest.mark.slow)])
def test_killed_at_random_moments(make_images, tmp_path, kills):
    images = tmp_path / "images"
    make_images(images, n_train=48, n_val=8)
    began = time.perf_counter()
    make(images, tmp_path / "unbroken")
    unbroken, takes = contents(tmp_path / "unbroken"), time.perf_counter() - began
    dice, killed, kept = random.Random(kills), 0, 0
    for attempt in range(10 * kills):
        latents, before = tmp_path / f"latents-{attempt}", {}
        for _ in range(3):  # the same folder up to three times, as the second kill meets notes of the first
            run = multiprocessing.get_context("fork").Process(target=make_until_killed, args=(images, latents))
            run.start()
            run.join(dice.uniform(0, takes))
            run.kill()
            run.join()
            killed += run.exitcode == -9
            if Manifest.exists(latents):
                break
            assert finished(latents).items() >= before.items(), "a finished shard was made twice"
            before = finished(latents)
        kept += len(before)
        make(images, latents)
        assert contents(latents) == unbroken
        if killed >= kills and kept:
            break
    assert killed >= kills and kept, "nothing was killed, or never after a shard"
