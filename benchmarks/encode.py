"""Encoding a folder of shards against its two networks alone on ready tensors: do reading and writing hide behind them?

On a GPU they can hide whole. Where the networks take every core of a CPU, nothing hides: the column `limit` is then
what the networks and the decoding make together, with every core busy all the time.

With CLIP_RETRIEVAL=FOLDER, made by `pip install --no-deps --target FOLDER clip-retrieval==2.45.0 pandas python-dateutil
pytz`, its reader, runner and writer are timed around the same CLIP; they make no tokens, so ours makes none either in
that row. The packages of its server and its loader of models are left out, as they clash with ours.
"""

import io
import os
import sys
import tempfile
import time
from contextlib import redirect_stderr
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image
from table import row, seconds, show

from clipgen.cli.latents import encoders_of
from clipgen.cli.machine import cores, pick_device
from clipgen.clip.frozen import ClipIdentity, FrozenClip
from clipgen.data.manifest import Manifest
from clipgen.data.sample import image_sample, sample_key
from clipgen.data.shards import write_shard
from clipgen.data.transforms import to_model_range
from clipgen.tokenizer.vqgan import VQGAN
from data_prep.crops import read_crops
from data_prep.encode import Encoders, encode

DEVICE = pick_device("auto")
SHAPES = {
    "256 px, VQGAN f16, ViT-B/32": dict(
        n=48 if DEVICE.type == "cpu" else 4096,
        batch_size=24 if DEVICE.type == "cpu" else 256,  # in bf16 a batch begins with a second of casting weights
        precisions=("bf16",),
        rounds=2,
        clip="ViT-B-32",
        vqgan=dict(
            image_size=256, codebook_size=1024, code_dim=8, channels=128, channel_multipliers=[1, 1, 2, 2, 4],
            res_blocks=2, attention_resolutions=[16], z_channels=256,
        ),
    ),
    "32 px, the demo's shapes": dict(
        n=4096,
        batch_size=256,
        precisions=("fp32", "bf16"),
        rounds=5,
        clip={
            "embed_dim": 64,
            "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16, "head_width": 64},
            "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 3},
        },
        vqgan=dict(
            image_size=32, codebook_size=64, code_dim=8, channels=64, channel_multipliers=[1, 1], res_blocks=1,
            norm_groups=8, patch=2,
        ),
    ),
}  # fmt: skip


def networks(clip: str | dict, vqgan: dict, precision: str) -> Encoders:
    """Untrained ones: they take as long as trained ones."""
    torch.manual_seed(0)
    net = open_clip.create_model(clip) if isinstance(clip, str) else open_clip.CLIP(**clip)
    size = net.visual.image_size
    size = size[0] if isinstance(size, tuple) else size
    identity = ClipIdentity("untrained", None, "", 0, size, (0.5,) * 3, (0.5,) * 3)
    frozen = FrozenClip(net, open_clip.get_tokenizer("ViT-B-32"), identity).to(DEVICE)
    tokenizer = VQGAN(**vqgan).eval().to(DEVICE, memory_format=torch.channels_last)
    return encoders_of(tokenizer, frozen, vqgan["image_size"], DEVICE, {"tokenizer": {}, "clip": {}}, precision)


def make_shards(folder: Path, n: int, size: int) -> None:
    """JPEGs of noise with the spectrum of photos, so that they decode like these."""
    random = np.random.default_rng(0)
    fall = 1 / np.maximum(np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)), 1 / size)

    def sample(i: int):
        spectrum_HWC = np.fft.fft2(random.normal(size=(size, size, 3)), axes=(0, 1)) * fall[..., None]
        noise_HWC = np.fft.ifft2(spectrum_HWC, axes=(0, 1)).real
        pixels = (128 + 50 * noise_HWC / noise_HWC.std()).clip(0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "jpeg", quality=95)
        return image_sample(sample_key(i), buffer.getvalue(), "jpg", {"source": f"{i}.jpg"})

    starts = range(0, n, 1000)
    shards = [
        write_shard(folder / f"train-{number:06d}.tar", (sample(i) for i in range(start, min(start + 1000, n))))
        for number, start in enumerate(starts)
    ]
    Manifest("images", shards, {}, {}).save(folder)


def rates(name: str, precision: str, folder: Path) -> dict:
    shape = SHAPES[name]
    n, batch_size = shape["n"], shape["batch_size"]
    encoders = networks(shape["clip"], shape["vqgan"], precision)
    shards = folder / str(encoders.image_size)
    if not shards.exists():
        make_shards(shards, n, encoders.image_size)
    everything = Manifest.load(shards).shards
    read = partial(read_crops, shards, everything, encoders.image_size, 1, batch_size)
    ready = [to_model_range(torch.from_numpy(batch.crops_NCHW3[:, 0])).to(DEVICE) for batch in read(cores())]

    def alone():
        for image_BCHW in ready:
            encoders.tokens(image_BCHW).cpu(), encoders.image(image_BCHW).cpu()

    def ours():
        with tempfile.TemporaryDirectory(dir=folder) as out:
            quietly(encode, shards, out, encoders, ["a text"], "", batch_size=batch_size, workers=cores())

    began = time.process_time()
    sum(len(batch.samples) for batch in read(1))
    decoding = time.process_time() - began
    encoders.tokens(ready[0]), encoders.image(ready[0])  # the first call takes longer than any other
    mine, theirs = seconds(ours, alone, shape["rounds"], warm_ups=0)
    limit = theirs + (decoding / cores() if DEVICE.type == "cpu" else 0)
    return row(f"encode, {name}, {precision}", "img/s", n / mine, n / theirs, "its networks alone", n / limit)


def quietly(work, *args, **options) -> None:
    with open(os.devnull, "w") as nothing, redirect_stderr(nothing):
        work(*args, **options)


def against_clip_retrieval(folder: Path, n: int = 64) -> dict:
    name, installed = "encode, clip-retrieval, 256 px, ViT-B/32 alone", os.environ.get("CLIP_RETRIEVAL")
    shape = SHAPES["256 px, VQGAN f16, ViT-B/32"]
    encoders = networks(shape["clip"], shape["vqgan"], "fp32")
    encoders = replace(encoders, tokens=lambda image_BCHW: torch.zeros(len(image_BCHW), 16, 16))
    shards = folder / "for-clip-retrieval"
    make_shards(shards, n, 256)

    def ours():
        with tempfile.TemporaryDirectory(dir=folder) as out:
            quietly(encode, shards, out, encoders, ["a text"], "", batch_size=32, workers=cores())

    if installed is None:
        mine, _ = seconds(ours, lambda: None, rounds=2, warm_ups=1)
        return row(name, "img/s", n / mine, float("nan"), "clip-retrieval is not installed, see benchmarks/encode.py")
    # by module, as its package imports its whole server
    sys.path += [installed, f"{installed}/clip_retrieval/clip_inference"]
    from reader import WebdatasetReader
    from runner import Runner
    from writer import NumpyWriter

    transform = open_clip.image_transform(224, is_train=False)
    urls = [str(shards / shard.name) for shard in Manifest.load(shards).shards]

    def mapper(batch):  # what its ClipMapper does
        embeddings = encoders.image(batch["image_tensor"].to(DEVICE)).cpu().to(torch.float16).numpy()
        names = batch["image_filename"]
        return {"image_embs": embeddings, "image_filename": names, "text_embs": None, "text": None, "metadata": None}

    def peer():
        with tempfile.TemporaryDirectory(dir=folder) as out:
            Runner(
                lambda sampler: WebdatasetReader(
                    sampler,
                    transform,
                    None,
                    urls,
                    32,
                    min(cores(), len(urls)),
                    enable_text=False,
                    enable_metadata=False,
                ),
                lambda: mapper,
                lambda part: NumpyWriter(part, out, False, True, False, 1),
                lambda part: _Silent(),
                1,
            )(0)

    mine, theirs = seconds(ours, peer, rounds=2, warm_ups=1)
    return row(name, "img/s", n / mine, n / theirs, "clip-retrieval 2.45.0")


class _Silent:
    """Its logger, saying nothing."""

    def start(self) -> None:
        pass

    def __call__(self, figures: dict) -> None:
        pass

    def end(self) -> None:
        pass


def rows() -> list[dict]:
    with tempfile.TemporaryDirectory() as scratch:
        found = [rates(name, precision, Path(scratch)) for name in SHAPES for precision in SHAPES[name]["precisions"]]
        return [*found, against_clip_retrieval(Path(scratch))]


if __name__ == "__main__":
    show(rows, "Encoding against its networks alone")
