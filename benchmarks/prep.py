"""Rows of benchmarks/data.py: preparing photos, each decoded, resized, encoded as JPEG and written with its JSON."""

import io
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import photos
import torch
import webdataset
from PIL import Image
from table import row

from data_prep.convert import convert
from data_prep.pack import pack
from data_prep.scan import SourceFile
from data_prep.settings import PackSettings

PHOTOS, SIZE, REAL_SIZE = 200, 256, 64
TIMES = 3  # files of each photo where one process is compared
TIMES_TWO = 15  # and where two are: 3,000 files, in small shards, so that neither waits long for the other's last
MEASURED_FIDELITY = 60  # photos
Spent = tuple[float, float]  # seconds of wall and of CPU time
PEER = os.environ.get("IMG2DATASET_PYTHON")
MISSING = "img2dataset is not installed, see benchmarks/data.py"


def ours(images: Path, size: int, decoding: str = "exact", workers: int = 1, shard: int = 2000) -> Callable[[], Spent]:
    """All of `clipgen prep`: walk, hashes, shards, their flush to the disk, manifest and report."""

    settings = PackSettings(size=size, format="jpg", decoding=decoding, samples_per_shard=shard)

    def work() -> None:
        with TemporaryDirectory(dir=images.parent) as out, open(os.devnull, "w") as nothing, redirect_stderr(nothing):
            pack(images, out, settings, workers)

    return timed(work)


def plain_pillow(images: Path, size: int) -> Callable[[], Spent]:
    """What one would write in an afternoon, with the same filter, quality and chroma."""

    def work() -> None:
        with (
            TemporaryDirectory(dir=images.parent) as out,
            open(f"{out}/0.tar", "wb") as file,
            webdataset.TarWriter(file, encoder=False) as writer,
        ):
            for number, path in enumerate(sorted(images.iterdir())):
                image = Image.open(path).convert("RGB")
                side = min(image.size)
                left, top = (image.width - side) // 2, (image.height - side) // 2
                made = io.BytesIO()
                small = image.resize((size, size), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
                small.save(made, "jpeg", quality=95, subsampling=0)
                about = json.dumps({"source": path.name, "width": image.width, "height": image.height}).encode()
                writer.write({"__key__": f"{number:09d}", "jpg": made.getvalue(), "json": about})

    return timed(work)


def decoding_alone(images: Path) -> Callable[[], Spent]:
    """The least that any full decode with libjpeg takes."""

    def work() -> None:
        for path in sorted(images.iterdir()):
            Image.open(path).load()

    return timed(work)


def timed(work: Callable[[], None]) -> Callable[[], Spent]:
    def spend() -> Spent:
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        return time.perf_counter() - wall, time.process_time() - cpu

    return spend


@contextmanager
def img2dataset(images: Path, size: int):
    """A function from the chroma to what a round of it spends."""
    script = Path(__file__).with_name("img2dataset_rounds.py")
    with (
        TemporaryDirectory(dir=images.parent) as out,
        subprocess.Popen(
            [PEER, "-P", str(script), str(images), out, str(size)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        ) as process,
    ):

        def spend(chroma: str) -> Spent:
            process.stdin.write(f"{chroma}\n")
            process.stdin.flush()
            wall, cpu = map(float, process.stdout.readline().split())
            return wall, cpu

        yield spend
        process.stdin.close()


def in_turn(arms: dict[str, Callable[[], Spent]], rounds: int = 3, warm_up: int = 1) -> dict[str, Spent]:
    """The median of each arm's wall and CPU seconds, all measured in turn after a warm-up."""
    taken: dict[str, list[Spent]] = {name: [] for name in arms}
    for number in range(warm_up + rounds):
        for name, spend in arms.items():
            spent = spend()
            if number >= warm_up:
                taken[name].append(spent)
    return {name: tuple(map(statistics.median, zip(*all, strict=True))) for name, all in taken.items()}


def against_others(images: Path, size: int, what: str, fast: bool) -> list[dict]:
    arms = {"exact": ours(images, size)}
    if fast:
        arms |= {"fast": ours(images, size, "fast"), "pillow": plain_pillow(images, size)}
    arms["limit"] = decoding_alone(images)
    n = len(list(images.iterdir()))
    if PEER is None:
        spent = in_turn(arms)
    else:
        with img2dataset(images, size) as round_of:
            arms["420"] = lambda: round_of("420")
            if fast:
                arms["444"] = lambda: round_of("444")
            spent = in_turn(arms)
    pairs = [("img2dataset", "exact", "420", "img2dataset, its 4:2:0; ours 4:4:4; limit: decoding alone")]
    if fast:
        pairs += [
            ("img2dataset at 4:4:4", "exact", "444", "img2dataset, at 4:4:4 as ours"),
            ("img2dataset, decoding=fast", "fast", "420", "img2dataset, its 4:2:0; ours 4:4:4"),
            ("plain Pillow", "exact", "pillow", "Pillow, webdataset; same filter, 4:4:4"),
        ]
    rows = []
    for clock, more in enumerate(("", ", by CPU time")):  # the second holds where the machine is busy
        rate = {name: n / seconds[clock] for name, seconds in spent.items()}
        for name, mine, peer, about in pairs:
            theirs, about = (rate[peer], about) if peer in rate else (float("nan"), MISSING)
            limit = rate["limit"] if mine == "exact" else None  # fast does not decode in full
            rows.append(row(f"prep, {name}{what}{more}", "img/s", rate[mine], theirs, about, limit))
    return rows


def two_processes(few: Path, many: Path) -> dict:
    """The server that processes are forked from, an import of torch, is started before by the few photos."""
    ours(few, SIZE, workers=2, shard=100)()
    os.sync()  # or else the disk is still busy with the photos themselves
    n = len(list(many.iterdir()))
    spent = in_turn({f"{w}": ours(many, SIZE, workers=w, shard=100) for w in (1, 2)}, warm_up=0)
    one, two = (n / spent[name][0] for name in ("1", "2"))
    return row("prep, 2 processes", "img/s", two, one, "ours with one; says nothing on a busy machine", 2 * one)


def fidelity(images: Path) -> list[dict]:
    """PSNR of each kind of decoding against the full decode, in a lossless copy, through the same filter."""
    errors: dict[str, list[float]] = {"exact": [], "fast": []}
    with TemporaryDirectory(dir=images.parent) as scratch:
        full = Path(scratch) / "full.png"
        for path in sorted(images.iterdir())[:MEASURED_FIDELITY]:
            Image.open(path).save(full, compress_level=1)
            expected_HWC = pixels(full, "exact")
            for decoding, squares in errors.items():
                squares.append(float(np.mean((pixels(path, decoding) - expected_HWC) ** 2)))
    named = "dB against the full decode, 100 where equal; peer: the bar"
    decibels = {name: 10 * np.log10(255**2 / max(np.mean(squares), 255**2 / 1e10)) for name, squares in errors.items()}
    return [row(f"prep, fidelity, decoding={name}", "dB", float(db), 40.0, named) for name, db in decibels.items()]


def pixels(path: Path, decoding: str) -> np.ndarray:
    """(H, W, C) as prepared, before JPEG loses any."""
    lossless = PackSettings(size=SIZE, format="png", decoding=decoding)
    made = convert("0", path.parent, SourceFile(path.name, path.stat().st_size), lossless)
    return np.asarray(Image.open(io.BytesIO(made.sample["png"])), np.float32)


def prep_rows(scratch: Path) -> list[dict]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # figures are for one process on one core
    try:
        photos.generate(scratch / "photos", PHOTOS)
        photos.multiply(scratch / "photos", scratch / "some", TIMES)
        rows = against_others(scratch / "some", SIZE, "", fast=True)
        if photos.unpack_real(scratch / "real"):
            rows += against_others(scratch / "real", REAL_SIZE, ", real, 128 to 64 px", fast=False)
        rows += fidelity(scratch / "photos")
        photos.multiply(scratch / "photos", scratch / "many", TIMES_TWO)
        return [*rows, two_processes(scratch / "some", scratch / "many")]
    finally:
        torch.set_num_threads(threads)
