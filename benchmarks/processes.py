"""Preparing a folder with one process and with two, in turn: `python benchmarks/processes.py PHOTOS SIZE ROUNDS`.

A script of its own that imports little, as `clipgen` does: each worker imports anew what the main module imports. What
workers are forked from is started before by a few photos. Each line has the seconds with one process and with two.
"""

import os
import sys
import time
from contextlib import redirect_stderr
from pathlib import Path
from tempfile import TemporaryDirectory

from data_prep.pack import pack
from data_prep.settings import PackSettings

FILES_PER_SHARD = 100  # so that neither waits long for the other's last


def spend(images: Path, size: int, workers: int) -> float:
    settings = PackSettings(size=size, format="jpg", samples_per_shard=FILES_PER_SHARD)
    os.sync()  # or else the disk is still busy with what came before
    with TemporaryDirectory(dir=images.parent) as out, open(os.devnull, "w") as nothing, redirect_stderr(nothing):
        began = time.perf_counter()
        pack(images, out, settings, workers)
        return time.perf_counter() - began


if __name__ == "__main__":
    photos, size, rounds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    with TemporaryDirectory(dir=photos.parent) as few:
        for path in sorted(photos.iterdir())[: 2 * FILES_PER_SHARD]:
            os.link(path, f"{few}/{path.name}")
        spend(Path(few), size, 2)
    for _ in range(rounds):
        print(spend(photos, size, 1), spend(photos, size, 2), flush=True)
