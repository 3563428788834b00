"""Jobs over processes of this machine, stopped within one file by Ctrl-C or by the first failure."""

import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_all_start_methods, get_context, resource_tracker
from typing import Any

from tqdm import tqdm

from clipgen.errors import UserError
from data_prep.executor import Work


def run_here(work: Work, jobs: Sequence[Any], workers: int, bar: tqdm) -> None:
    """Call `work` for every job in `workers` processes, in this one for 1; UserError when one was killed."""
    workers = min(workers, len(jobs))
    if workers > 1:
        _run_in_processes(work, jobs, workers, bar)
        return
    for job in jobs:
        work(job, bar.update)


def get_ready(module: str) -> None:
    """Start what processes will be forked from, so that it imports the module of the work while the caller goes on."""
    if _context(module).get_start_method() == "forkserver":
        from multiprocessing import forkserver  # not there on every system

        with _out_of_reach():
            forkserver.ensure_running()


@contextmanager
def _out_of_reach() -> Iterator[None]:
    """Ctrl-C reaches the whole group, and only this process answers it: those started within never see it.

    They inherit the mask, from before their first line on. Here it is answered at the end, since half a start leaves
    locks behind, and threads without the mask would get it.
    """
    asked = []
    handler = signal.signal(signal.SIGINT, lambda *_: asked.append(True))
    resource_tracker.ensure_running()  # which would lift the mask
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
        if asked:
            signal.raise_signal(signal.SIGINT)


def _context(module: str) -> Any:
    # not forked from here, as the caller may hold threads and a GPU; a fork server imports torch once for all
    context = get_context("forkserver" if "forkserver" in get_all_start_methods() else "spawn")
    context.set_forkserver_preload([module])
    return context


def _run_in_processes(work: Work, jobs: Sequence[Any], workers: int, bar: tqdm) -> None:
    context = _context(work.__module__)
    with _out_of_reach():
        count, stop = context.Value("q", 0), context.Event()
    with ProcessPoolExecutor(workers, context, _start_worker, (count, stop)) as pool:
        try:
            first = bar.n
            with _out_of_reach():
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


def _tick() -> None:
    if _stop.is_set():
        raise _StoppedError
    with _count.get_lock():
        _count.value += 1


def _call(work: Work, job: Any) -> None:
    work(job, _tick)
