"""The console script, word for word but in this process, and one real run that the tests look at from all sides."""

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from clipgen.cli.main import main
from clipgen.shapes.draw import world

QUIET = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}  # two OpenMP threads wait for each other on a busy machine

TINY = (
    "tokenizer=small_f4", "tokenizer.codebook_size=128", "model=clipgen_tiny", "transformer.width=64",
    "transformer.depth=1", "transformer.heads=1",
    "tokenizer.train.steps=6", "tokenizer.train.batch_size=8", "tokenizer.train.warmup=1",
    "tokenizer.train.continuous_steps=2", "tokenizer.train.usage_window=2", "tokenizer.train.gan_start=0.5",
    "transformer.train.steps=6", "transformer.train.batch_size=8", "transformer.train.warmup=1",
    "trainer.threads=1", "trainer.device=cpu", "trainer.val_every=3", "trainer.grid_every=3", "prep.workers=1",
    "clip.pretrained=null",
)  # fmt: skip


@dataclass
class Outcome:
    """How a command ended."""

    status: int
    said: str
    error: str


def in_this_process(*words: object) -> Outcome:
    """`clipgen WORDS…`: a defect raises here, as it would give a traceback there."""
    said, error, status = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(error):
        try:
            main([str(word) for word in words])
        except SystemExit as end:
            status = end.code or 0
    return Outcome(status, said.getvalue(), error.getvalue())


def in_its_own_process(*words: object, folder: Path | None = None, timeout: int = 300) -> Outcome:
    done = subprocess.run(
        [sys.executable, "-m", "clipgen.cli.main", *map(str, words)],
        capture_output=True, text=True, cwd=folder, env=os.environ | QUIET, timeout=timeout,
    )  # fmt: skip
    return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def clipgen() -> Callable[..., Outcome]:
    """A command in this process, as loading torch takes five seconds."""
    return in_this_process


@pytest.fixture(scope="session")
def clipgen_process() -> Callable[..., Outcome]:
    """A command as a person starts it."""
    return in_its_own_process


@pytest.fixture(scope="session")
def one_line() -> Callable[[Outcome], str]:
    """What a command that refused said: one line on stderr and no traceback."""

    def line(outcome: Outcome) -> str:
        assert outcome.status == 2, outcome
        bars, marker, line = outcome.error.partition("clipgen: error: ")
        assert marker and line.count("\n") == 1 and line.endswith("\n"), outcome.error
        assert all("\r" in bar or not bar for bar in bars.split("\n")), outcome.error
        assert "Traceback" not in outcome.error + outcome.said
        return line.strip()

    return line


@pytest.fixture(scope="session")
def tiny(tiny_clip_folder) -> list[str]:
    """Settings that make a stage take a second."""
    return [*TINY, f"clip.model=local-dir:{tiny_clip_folder}"]


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """60 drawn pictures, a third in nested folders, a text file and half a JPEG. Not to be changed."""
    folder = tmp_path_factory.mktemp("pictures")
    for i, (_, pixels, _) in enumerate(world(60, 3, 32)):
        path = folder / ("nested/deep" if i % 3 == 0 else "") / f"photo {i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    (folder / "notes.txt").write_text("no picture")
    jpeg = io.BytesIO()
    Image.fromarray(pixels).save(jpeg, "jpeg")
    (folder / "nested" / "half.jpg").write_bytes(jpeg.getvalue()[: len(jpeg.getvalue()) // 2])
    return folder


@pytest.fixture(scope="session")
def finished(pictures, tiny, tmp_path_factory) -> tuple[Path, Outcome]:
    """`clipgen run` on the pictures, in its own process: its folder and what it said. Not to be changed."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    prompts = "prompts=[a red circle,a blue ring on white]"
    outcome = in_its_own_process("run", f"images={pictures}", f"out={folder}", prompts, *tiny)
    assert outcome.status == 0, outcome.error
    return folder, outcome


@pytest.fixture(scope="session")
def run_folder(finished) -> Path:
    return finished[0]


@pytest.fixture(scope="session")
def tokenizer(run_folder) -> str:
    """The word that takes the finished run's tokenizer."""
    return f"tokenizer.ckpt={run_folder / 'vqgan' / 'last.ckpt'}"


@pytest.fixture(scope="session")
def encode(clipgen, tokenizer, tiny) -> Callable[..., None]:
    """`encode(FOLDER, prep=WORDS, encode=WORDS)` makes `shards` and `latents` of its `images`."""

    def encode(folder: Path, prep: tuple[str, ...] = (), encode: tuple[str, ...] = ()) -> None:
        for words in (
            ["prep", f"images={folder / 'images'}", "prep.val_fraction=0.2", *prep], ["encode", tokenizer, *encode]
        ):  # fmt: skip
            outcome = clipgen(*words, f"shards={folder / 'shards'}", f"latents={folder / 'latents'}", *tiny)
            assert outcome.status == 0, outcome.error

    return encode


@pytest.fixture(scope="session")
def captioned(encode, tmp_path_factory):
    """Shards and latents of 60 pictures, 50 with captions, by the finished run's tokenizer. Not to be changed."""
    folder = tmp_path_factory.mktemp("captioned")
    (folder / "images").mkdir()
    rows = ["file\tcaption"]
    for i, (_, pixels, caption) in enumerate(world(60, 3, 32)):
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
        rows += [f"{i}.png\t{caption}", f"{i}.png\tsome picture, {caption}"] if i % 6 else []
    (folder / "captions.tsv").write_text("\n".join(rows))
    encode(folder, prep=(f"captions={folder / 'captions.tsv'}",))
    return folder


@pytest.fixture(scope="session")
def train_on(clipgen, tokenizer, tiny) -> Callable[..., Outcome]:
    """`train_on(FOLDER, OUT, WORD…)`: `clipgen train` on the folder's latents."""

    def train_on(folder: Path, out: Path, *words: str, command=clipgen) -> Outcome:
        return command("train", *tiny, f"latents={folder / 'latents'}", tokenizer, f"out={out}", *words)

    return train_on


@pytest.fixture
def train(train_on, captioned, tmp_path):
    """`clipgen train stage=paired` on the captioned pictures."""

    def train(*words: str, out=tmp_path, **how):
        return train_on(captioned, out, "stage=paired", *words, **how)

    return train
