"""What tests of several parts use: the real data beside the checkout, and small real shards."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clipgen.data.manifest import Manifest
from clipgen.data.sample import Sample, image_sample, latent_sample, sample_key
from clipgen.data.shards import shard_name, write_shard

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout; tests that need it are skipped where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"{folder} does not exist: it holds real images that are no part of the project")
    return folder


def write_images(
    folder: Path, n_train: int = 20, n_val: int = 5, width: int = 12, height: int = 10, split_at: int = 8
) -> Manifest:
    """Image shards; every pixel of sample i is (i, 0, 0), but for its left half, which is (i, 255, 0)."""

    def sample(i: int) -> Sample:
        image = Image.new("RGB", (width, height), (i, 0, 0))
        image.paste((i, 255, 0), (0, 0, width // 2, height))
        buffer = io.BytesIO()
        image.save(buffer, "png")
        return image_sample(sample_key(i), buffer.getvalue(), "png", {"source": f"{i}.png"})

    facts = {"pixels": {"train": n_train * width * height, "val": n_val * width * height}}
    return _write(folder, "images", sample, n_train, n_val, split_at, facts)


def write_latents(
    folder: Path,
    n_train: int = 30,
    n_val: int = 5,
    crops: int = 2,
    grid: tuple[int, int] = (2, 3),
    embedding_size: int = 4,
    split_at: int = 8,
) -> Manifest:
    """Latent shards; the tokens of sample i are i, but for the second, which is the number of the crop."""

    def sample(i: int) -> Sample:
        tokens = np.full((crops, *grid), i, np.uint16)
        tokens[:, 0, 1] = range(crops)
        return latent_sample(sample_key(i), tokens, np.full((crops, embedding_size), i % 7), {"source": f"{i}.png"})

    return _write(folder, "latents", sample, n_train, n_val, split_at, {})


def _write(
    folder: Path, kind: str, sample: Callable[[int], Sample], n_train: int, n_val: int, split_at: int, facts: dict
) -> Manifest:
    shards = []
    for split, first, n in (("train", 0, n_train), ("val", 100, n_val)):
        for number, start in enumerate(range(first, first + n, split_at)):
            rows = range(start, min(start + split_at, first + n))
            shards.append(write_shard(folder / shard_name(split, number), map(sample, rows)))
    manifest = Manifest(kind, shards, {"fingerprint": "test"}, facts)
    manifest.save(folder)
    return manifest


@pytest.fixture(scope="session")
def make_images() -> Callable[..., Manifest]:
    """`write_images`, for tests that want their own folder."""
    return write_images


@pytest.fixture(scope="session")
def make_latents() -> Callable[..., Manifest]:
    """`write_latents`, for tests that want their own folder."""
    return write_latents


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 images of 12×10 pixels to train on and 5 to validate with. Not to be changed."""
    folder = tmp_path_factory.mktemp("images")
    write_images(folder)
    return folder


@pytest.fixture(scope="session")
def latent_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 latents to train on and 5 to validate with: 2 crops, 2×3 tokens, embeddings of 4. Not to be changed."""
    folder = tmp_path_factory.mktemp("latents")
    write_latents(folder)
    return folder
