"""Jobs over processes, with one progress bar, stopped within one file by Ctrl-C or by the first failure."""

import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_all_start_methods, get_context
from typing import Any

from tqdm import tqdm

from clipgen.errors import UserError

Tick = Callable[[], object]  # a job calls it after each file
Work = Callable[[Any, Tick], None]


def run(work: Work, jobs: Sequence[Any], workers: int, what: str, total: int, done: int = 0) -> None:
    """Call `work(job, tick)` for every job, in processes when `workers` > 1; a bar counts ticks from `done` to `total`.

    `work` must be importable by name and leave its result in a file. Raises UserError when a process was killed from
    outside.
    """
    workers = min(workers, len(jobs))
    with tqdm(total=total, initial=done, desc=what, unit=" files", file=sys.stderr, smoothing=0.1) as bar:
        if workers <= 1:
            for job in jobs:
                work(job, bar.update)
        else:
            _run_in_processes(work, jobs, workers, bar)


def _run_in_processes(work: Work, jobs: Sequence[Any], workers: int, bar: tqdm) -> None:
    # not forked from here, as the caller may hold threads and a GPU; a fork server imports torch once for all
    context = get_context("forkserver" if "forkserver" in get_all_start_methods() else "spawn")
    context.set_forkserver_preload([work.__module__])
    count, stop = context.Value("q", 0), context.Event()
    with ProcessPoolExecutor(workers, context, _start_worker, (count, stop)) as pool:
        try:
            first = bar.n
            waiting = {pool.submit(_call, work, job) for job in jobs}
            while waiting:
                finished, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
                bar.update(first + count.value - bar.n)
                for future in finished:
                    future.result()
        except BrokenProcessPool as error:
            raise UserError(
                f"one of {workers} worker processes was killed, most likely for want of memory; run the same command "
                "again with fewer workers, what is complete is kept"
            ) from error
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


class _StoppedError(Exception):
    pass


_count: Any = None
_stop: Any = None


def _start_worker(count: Any, stop: Any) -> None:
    global _count, _stop
    _count, _stop = count, stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; only the parent answers it


def _tick() -> None:
    if _stop.is_set():
        raise _StoppedError
    with _count.get_lock():
        _count.value += 1


def _call(work: Work, job: Any) -> None:
    work(job, _tick)
