"""Timing and tables for the benchmarks: median of several rounds, ours and the peer in turn, the machine above it."""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from clipgen.cli.machine import describe, pick_device


def seconds(
    ours: Callable[[], None], peer: Callable[[], None], rounds: int = 7, warm_ups: int = 2
) -> tuple[float, float]:
    """Median seconds of each, measured in turn after warm-ups, so that drift hits both."""
    for work in (ours, peer):
        for _ in range(warm_ups):
            work()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for work, taken in zip((ours, peer), times, strict=True):
            began = time.perf_counter()
            work()
            taken.append(time.perf_counter() - began)
    return statistics.median(times[0]), statistics.median(times[1])


SMALLER_IS_BETTER = ("s", "ms", "MB", "B")  # units


def row(name: str, unit: str, ours: float, peer: float, peer_name: str, limit: float | None = None) -> dict:
    """A ratio above 1 means that ours is better; times and bytes are better when smaller, rates when larger."""
    ratio = peer / ours if unit in SMALLER_IS_BETTER else ours / peer
    return {
        "row": name, "unit": unit, "ours": ours, "peer": peer, "peer_name": peer_name, "ratio": ratio, "limit": limit,
    }  # fmt: skip


def show(measure: Callable[[], Iterable[dict]], title: str) -> None:
    """Measure, once the command line is read, and print the rows as they come; `--json FILE` writes them at the end."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    arguments = parser.parse_args()
    about = describe(pick_device("auto"))
    print(f"{title}\n{about['device']}, {about['threads']} threads, torch {torch.__version__}")
    print(f"{'':<44}{'unit':>8}{'ours':>12}{'peer':>12}{'ratio':>8}{'limit':>12}  peer")
    rows = []
    for r in measure():
        rows.append(r)
        limit = "" if r["limit"] is None else f"{r['limit']:.3g}"
        figures = f"{r['ours']:>12.3g}{r['peer']:>12.3g}{r['ratio']:>8.2f}{limit:>12}"
        print(f"{r['row']:<44}{r['unit']:>8}{figures}  {r['peer_name']}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
