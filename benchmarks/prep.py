"""Rows of benchmarks/data.py: preparing photos, each decoded, resized, encoded as JPEG and written with its JSON."""

import io
import json
import os
import statistics
import subprocess
import sys
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
from data_prep.settings import DECODING, PackSettings

PHOTOS, SIZE, REAL_SIZE = 200, 256, 64
TIMES = 3  # files of each photo where one process is compared
TIMES_TWO = 15  # and where two are
LEFT, LARGER = (2.0, 1.5, 1.25, 1.0), {1: 60, 2: 20, 4: 8}  # of the curve; times the sides → photos
CURVE = "curve"
Spent = tuple[float, float]  # seconds of wall and of CPU time
PEER = os.environ.get("IMG2DATASET_PYTHON")
MISSING = "img2dataset is not installed, see benchmarks/data.py"


def ours(images: Path, size: int, decoding: str = "exact") -> Callable[[], Spent]:
    """All of `clipgen prep`: walk, hashes, shards, their flush to the disk, manifest and report."""

    settings = PackSettings(size=size, format="jpg", decoding=decoding)

    def work() -> None:
        with TemporaryDirectory(dir=images.parent) as out, open(os.devnull, "w") as nothing, redirect_stderr(nothing):
            pack(images, out, settings)

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


def two_processes(many: Path) -> dict:
    script = Path(__file__).with_name("processes.py")
    command = [sys.executable, str(script), str(many), str(SIZE), "3"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    n = len(list(many.iterdir()))
    one, two = (
        n / statistics.median(column) for column in zip(*(map(float, line.split()) for line in lines), strict=True)
    )
    return row("prep, 2 processes", "img/s", two, one, "ours with one; says nothing on a busy machine", 2 * one)


def curve(scratch: Path) -> list[dict]:
    """Speed and PSNR of decoding at a fraction, by how many times the size must be left of a photo, against all of it.

    Photos of the usual sides and of two and four times those.
    """
    rows = []
    for times, count in LARGER.items():
        images = scratch / f"{times}-times"
        photos.generate(images, count, times)
        paths = sorted(images.iterdir())
        full = [pixels(path, "exact") for path in paths]
        arms = {f"{left:g}": ours_alone(paths, left) for left in LEFT} | {"exact": ours_alone(paths, None)}
        spent = in_turn(arms)
        for left in LEFT:
            with decoding(left):
                squares = [
                    float(np.mean((pixels(path, CURVE) - all_) ** 2)) for path, all_ in zip(paths, full, strict=True)
                ]
            average, worst = (decibels(value) for value in (np.mean(squares), max(squares)))
            name = next((f" ({name})" for name, factor in DECODING.items() if factor == left), "")
            mine, exact = (count / spent[arm][1] for arm in (f"{left:g}", "exact"))
            about = f"exact; {average:.1f} dB, the worst photo {worst:.1f}"
            rows.append(row(f"prep, {480 * times}–{800 * times} px, ≥ {left:g}×{name}", "img/s", mine, exact, about))
    return rows


def decibels(squares: float) -> float:
    """100 where nothing differs."""
    return float(10 * np.log10(255**2 / max(squares, 255**2 / 1e10)))


@contextmanager
def decoding(left: float | None):
    """A kind of decoding that a user has no name for."""
    DECODING[CURVE] = left
    try:
        yield
    finally:
        del DECODING[CURVE]


def ours_alone(paths: list[Path], left: float | None) -> Callable[[], Spent]:
    """Converting alone."""

    def work() -> None:
        with decoding(left):
            settings = PackSettings(size=SIZE, format="jpg", decoding=CURVE)
            for path in paths:
                convert("0", path.parent, SourceFile(path.name, path.stat().st_size), settings)

    return timed(work)


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
        rows += curve(scratch)
        photos.multiply(scratch / "photos", scratch / "many", TIMES_TWO)
        return [*rows, two_processes(scratch / "many")]
    finally:
        torch.set_num_threads(threads)
