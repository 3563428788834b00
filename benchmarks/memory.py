"""Peak memory of preparing 20,000 and 200,000 tiny images, and what that makes for 1,000,000; about five minutes.

Not part of `make bench`: `python benchmarks/memory.py` by hand.
"""

import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from table import row, show

from data_prep.pack import pack
from data_prep.settings import PackSettings

COUNTS = (20_000, 200_000)
EXTRAPOLATED = 1_000_000


def draw(folder: Path, count: int) -> None:
    """PNGs of noise, 16 px, a thousand to a folder."""
    random = np.random.default_rng(0)
    for i in range(count):
        if i % 1000 == 0:
            below = folder / f"{i // 1000:04d}"
            below.mkdir()
        buffer = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).save(buffer, "png", compress_level=0)
        (below / f"{i:07d}.png").write_bytes(buffer.getvalue())


def pack_and_tell(images: str, shards: str) -> None:
    """Prepare a folder and print the peak resident memory of this process in bytes."""
    pack(images, shards, PackSettings())
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(int(peak.split()[1]) * 1024)


def peak(count: int) -> int:
    with tempfile.TemporaryDirectory() as made:
        images = Path(made) / "images"
        images.mkdir()
        draw(images, count)
        command = [sys.executable, __file__, str(images), f"{made}/shards"]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, env=os.environ)
        return int(done.stdout)


def memory_rows() -> list[dict]:
    few, many = map(peak, COUNTS)
    each = (many - few) / (COUNTS[1] - COUNTS[0])
    most = few + each * (EXTRAPOLATED - COUNTS[0])
    return [
        row(f"memory, prep of {COUNTS[0]:,} images", "MB", few / 1e6, few / 1e6, "itself"),
        row(f"memory, prep of {COUNTS[1]:,} images", "MB", many / 1e6, few / 1e6, f"itself at {COUNTS[0]:,}"),
        row(f"memory, prep of {EXTRAPOLATED:,}, extrapolated", "MB", most / 1e6, few / 1e6, f"itself at {COUNTS[0]:,}"),
        row("memory, bytes for each image more", "B", each, 200, "the promise"),
    ]


if __name__ == "__main__":
    if len(sys.argv) == 3 and not sys.argv[1].startswith("-"):
        pack_and_tell(*sys.argv[1:])
    else:
        show(memory_rows, "Memory of preparing images")
