"""What tests of several parts use: the real data beside the checkout, and small real shards."""

import importlib.util
import io
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub: no test touches the network

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
    captions: Callable[[int], list[str]] = lambda i: [],
    large: bool = False,
) -> Manifest:
    """Latent shards; the tokens of sample i are i, but for the second, which is the number of the crop.

    Where it has captions, the embedding of the c-th is c everywhere. A `large` token is that of which it is a quarter,
    and 1 more in every other row.
    """

    def sample(i: int) -> Sample:
        tokens = np.full((crops, *grid), i, np.uint16)
        tokens[:, 0, 1] = range(crops)
        clip, meta, texts = np.full((crops, embedding_size), i % 7), {"source": f"{i}.png"}, captions(i)
        text_clip = np.arange(len(texts))[:, None].repeat(embedding_size, 1) if texts else None
        enlarged = tokens.repeat(2, 1).repeat(2, 2) if large else None
        if large:
            enlarged[:, 1::2] += 1
        return latent_sample(sample_key(i), tokens, clip, meta, texts, text_clip, enlarged)

    made_by = {"encode": {"crops": crops, "large": True}} if large else {}
    return _write(folder, "latents", sample, n_train, n_val, split_at, {}, made_by)


def _write(
    folder: Path,
    kind: str,
    sample: Callable[[int], Sample],
    n_train: int,
    n_val: int,
    split_at: int,
    facts: dict,
    made_by: dict | None = None,
) -> Manifest:
    shards = []
    for split, first, n in (("train", 0, n_train), ("val", 100, n_val)):
        for number, start in enumerate(range(first, first + n, split_at)):
            rows = range(start, min(start + split_at, first + n))
            shards.append(write_shard(folder / shard_name(split, number), map(sample, rows)))
    manifest = Manifest(kind, shards, {"fingerprint": "test"} | (made_by or {}), facts)
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


TINY_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="session")
def tiny_clip_architecture() -> dict:
    """open_clip's model config of the smallest CLIP that takes every token of its tokenizer."""
    return TINY_CLIP


@pytest.fixture(scope="session")
def tiny_clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained CLIP of 32 px and 16 dimensions in open_clip's own folder format. Not to be changed."""
    from clipgen.clip.module import ClipModule, save_open_clip

    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    module = ClipModule(TINY_CLIP, steps=1)
    save_open_clip(module, folder, ["a red circle", "a blue ring on white", "two black crosses"])
    return folder


@pytest.fixture(scope="module")
def pipeline(tiny_clip_folder):
    """An untrained generator whose weights are large enough for prompt and seed to make a difference."""
    from clipgen import ClipGen
    from clipgen.clip.frozen import load_clip
    from clipgen.tokenizer.vqgan import VQGAN
    from clipgen.transformer.model import Transformer

    tokenizer = dict(
        image_size=16, codebook_size=32, code_dim=4, channels=32, channel_multipliers=[1, 1, 1], res_blocks=1,
        z_channels=8, norm_groups=8,
    )  # fmt: skip
    of_transformer = dict(grid=[4, 4], codebook_size=32, embed_dim=16, width=32, depth=2, heads=2, n_prefix=3)
    sampling = dict(guidance_scale=2.0, temperature=1.0, top_k=0, top_p=1.0, fidelity=0.9, batch_size=4)
    torch.manual_seed(0)
    vqgan, transformer = VQGAN(**tokenizer), Transformer(**of_transformer)
    torch.nn.init.normal_(transformer.head.weight, std=0.5)
    for block in transformer.blocks:
        for matrix in (block.attention.qkv.weight, block.attention.out.weight):
            torch.nn.init.normal_(matrix, std=0.2)
    clip = load_clip(f"local-dir:{tiny_clip_folder}")
    statistics = {
        "image_mean": clip.encode_image(torch.rand(20, 3, 32, 32)).mean(0),
        "text_mean": clip.encode_text(["a", "b", "red", "two blue squares"]).mean(0),
    }
    settings = {"tokenizer": tokenizer, "transformer": of_transformer}
    return ClipGen(vqgan, transformer, clip, statistics, sampling, settings)


@pytest.fixture(scope="module")
def bridged(pipeline):
    """The same generator, stored with covariances and a bank."""
    from clipgen import ClipGen

    image_NE = pipeline.clip.encode_image(torch.rand(20, 3, 32, 32))
    text_NE = pipeline.clip.encode_text([f"{n} birds" for n in range(20)])
    covariances = {"image_covariance": image_NE.T.cov(), "text_covariance": text_NE.T.cov()}
    parts = (pipeline.vqgan, pipeline.transformer, pipeline.clip, pipeline.statistics | covariances)
    return ClipGen(*parts, pipeline.sampling | {"bridge": "whiten"}, pipeline.settings, bank_NE=image_NE.half())


@pytest.fixture(scope="session")
def published() -> ModuleType:
    """`tokenizer/published.py`: taming's and HFAiLab's tokenizers, small and random, in the layout of their files."""
    return _module_of("tokenizer/published.py")


@pytest.fixture(scope="session")
def published_gpt() -> Callable:
    """Makes a small random Transformer in the layout of HFAiLab's file."""
    return _module_of("transformer/published.py").published_gpt


@pytest.fixture(scope="session")
def comparison() -> ModuleType:
    """`evaluation/comparison.py`: writes a folder as `clipgen compare` leaves it."""
    return _module_of("evaluation/comparison.py")


@pytest.fixture(scope="session")
def known() -> ModuleType:
    """`evaluation/known.py`: stand-ins for what is judged, which know what they are asked."""
    return _module_of("evaluation/known.py")


@pytest.fixture(scope="session")
def read_page() -> Callable:
    """What a browser would see of an HTML file: `text`, and `of(tag)`."""
    return _module_of("evaluation/test_report.py").Page


def _module_of(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.replace("/", "_"), Path(__file__).parent / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def make_trainer() -> Callable:
    """A quiet Trainer on the CPU, as the data modules want it: one "epoch" is the whole training."""
    import pytorch_lightning as pl

    def make(*callbacks, **settings) -> pl.Trainer:
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        fixed = {"max_epochs": 1, "accelerator": "cpu", "use_distributed_sampler": False, "num_sanity_val_steps": 0}
        own = {"enable_checkpointing": False, "callbacks": list(callbacks)}
        return pl.Trainer(**quiet | fixed | own | settings)

    return make


@pytest.fixture(scope="session")
def save_at() -> Callable:
    """A callback that saves `FOLDER/N.ckpt` after each batch N of `batches`, as a Ctrl-C would."""
    import pytorch_lightning as pl

    class SaveAt(pl.Callback):
        def __init__(self, folder: Path, batches: set[int]):
            self.folder, self.batches = folder, batches

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
            if module.batches in self.batches:
                trainer.save_checkpoint(self.folder / f"{module.batches}.ckpt")

    return SaveAt
