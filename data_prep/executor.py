"""Where the jobs of prep and encode run: processes here, a Ray cluster, or Slurm.

A job makes one shard, whole or not at all, so it may be run again anywhere; the folders must be seen by every machine.
"""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from clipgen.errors import UserError

Tick = Callable[[], object]  # a job calls it after each file
Work = Callable[[Any, Tick], None]


@dataclass
class Executor:
    """`kind` is local, ray or slurm; the rest is for the last two.

    `address` is auto (the cluster here), local (this machine alone) or a Ray cluster's HOST:PORT; `tasks` how many run
    at once, null for as many as there is room for; `cpus` and `gpus` what a task asks for. Of Slurm alone are
    `minutes`, the time limit, `options`, more of sbatch's own, and `logs`, a folder that all nodes see.
    """

    kind: str = "local"
    address: str = "auto"
    tasks: int | None = None
    cpus: int = 1
    gpus: float = 0
    minutes: int = 720
    options: dict[str, Any] = field(default_factory=dict)
    logs: str = "slurm"


LOCAL = Executor()


def run(
    work: Work,
    jobs: Sequence[Any],
    workers: int,
    what: str,
    total: int,
    done: int = 0,
    executor: Executor = LOCAL,
) -> None:
    """Call `work(job, tick)` for every job; a bar counts ticks from `done` to `total`.

    On this machine that is in `workers` processes, in this one for 1. `work` must be importable by name and leave its
    result in a file. Raises UserError for a process, worker or node that was lost, a cluster that is not there and a
    package that is not installed.
    """
    with tqdm(total=total, initial=done, desc=what, unit=" images", file=sys.stderr, smoothing=0.1) as bar:
        if not jobs:
            return
        if executor.kind == "local":
            from data_prep.local import run_here

            run_here(work, jobs, workers, bar)
        elif executor.kind == "ray":
            from data_prep.on_ray import run_on_ray

            run_on_ray(work, jobs, executor, bar)
        elif executor.kind == "slurm":
            from data_prep.on_slurm import run_on_slurm

            run_on_slurm(work, jobs, executor, bar)
        else:
            raise UserError(f"executor.kind={executor.kind} is unknown; take executor=local, ray or slurm")


def call_elsewhere(work: Work, jobs: Sequence[Any], folder: str) -> int | UserError:
    """Run jobs one after the other in `folder`, on whichever machine this is; how many ticks, or what a user did wrong.

    The error is handed over as a value, since engines wrap what is raised in texts of their own.
    """
    ticks = 0

    def tick() -> None:
        nonlocal ticks
        ticks += 1

    try:
        os.chdir(folder)  # paths may be relative
    except OSError as error:
        return UserError(f"{folder} is not seen by {os.uname().nodename} ({error.strerror}); use a shared folder")
    try:
        for job in jobs:
            work(job, tick)
    except UserError as error:
        return error
    return ticks


def not_installed(package: str) -> UserError:
    """What to say where the package of an executor is missing."""
    extra = {"ray": "ray", "submitit": "slurm"}[package]
    return UserError(f"executor={extra} needs {package}, which is not installed; pip install 'clipgen[{extra}]'")


def lost(what: str, detail: str) -> UserError:
    """What to say of a worker that went away."""
    return UserError(
        f"{what} ({' '.join(detail.split())[:200]}); what is complete is kept, run the same command again, with more "
        "memory or fewer tasks at once where that was the reason"
    )
