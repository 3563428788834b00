"""One job of a sweep: a process of its own, in a folder of its own, that may fail without taking the others along.

The launcher calls `Job` where the job is to run: here, in a worker of joblib, on a node. The process is forked from a
server that has imported torch once for all jobs of that worker; its output is `job.log`, what became of it `job.json`.
"""

import json
import math
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from multiprocessing import get_all_start_methods, get_context, get_start_method, set_start_method
from pathlib import Path

from clipgen.cli.say import say
from clipgen.cli.score import score_of, stage_folder
from clipgen.data.atomic import write_json
from clipgen.data.lock import alone
from clipgen.errors import UserError

FILE, LOG = "job.json", "job.log"
INTERRUPTED = (130, -signal.SIGINT)


class Job:
    """The task of a sweep: trains as the same settings would without -m, and returns the metric, NaN without one."""

    def __init__(self, verb: str):
        self.verb = verb

    def __setstate__(self, state: dict) -> None:  # in another process, which composes the job's config
        from clipgen.config import register

        register()
        self.__dict__ = state

    def __call__(self, cfg) -> float:
        from hydra.core.hydra_config import HydraConfig

        hydra = HydraConfig.get()
        folder = Path(hydra.sweep.dir) / hydra.sweep.subdir
        typed = list(hydra.overrides.task)
        of = {"stage": cfg.stage, "task": cfg.task, "metric": cfg.metric}
        sources = [source.path for source in hydra.runtime.config_sources if source.provider == "command-line"]
        flags = [word for source in sources for word in ("--config-dir", source.removeprefix("file://"))]
        about = {"overrides": typed, "command": [self.verb, *flags, *typed], **of}
        log, began = folder / LOG, time.perf_counter()
        earlier, written = spent(folder), log.stat().st_size if log.is_file() else 0

        def keep(**more) -> None:
            write_json(folder / FILE, about | {"began": datetime.now().astimezone().isoformat("T", "seconds")} | more)

        keep(status="running")
        say(f"{folder}: begins ({LOG} there tells more)")
        words = [self.verb, *flags, *typed, f"hydra.run.dir={folder}", "hydra.mode=RUN"]
        status = in_a_process(words, folder)
        seconds = round(earlier + time.perf_counter() - began, 1)
        if status in INTERRUPTED:
            keep(status="stopped", seconds=seconds)
            raise KeyboardInterrupt
        reason = None if status == 0 else failure(status, log, written)
        score = None
        if reason is None:
            try:
                stage = "transformer" if self.verb == "run" else stage_folder(cfg.stage, cfg.task)
                score = score_of(folder, stage, cfg.metric)
            except UserError as problem:
                reason = str(problem)
        if reason:
            keep(status="failed", reason=reason, seconds=seconds)
            say(f"{folder.name}: failed after {seconds:.0f} s: {reason}")
            return math.nan
        keep(status="done", score=score, seconds=seconds)
        say(f"{folder.name}: done in {seconds:.0f} s, {cfg.metric} {score:.4g}")
        return score


def in_a_process(words: list[str], folder: Path) -> int:
    """`clipgen WORDS`, its output added to the log in `folder`: the status, below 0 the signal that ended it.

    After Ctrl-C that is 130, however it ended: joblib kills the processes of its workers, wherever they are.
    """
    # not forked from here, as the caller may hold threads and a GPU
    method = "forkserver" if "forkserver" in get_all_start_methods() else "spawn"
    if get_start_method(allow_none=True) == "loky":  # in a worker of joblib, whose children would look for it in vain
        set_start_method(method, force=True)
    context = get_context(method)
    context.set_forkserver_preload(["clipgen.cli.stages"])
    process = context.Process(target=_clipgen, args=(words, folder, dict(os.environ)))
    with _signals_are_its_own(process) as came:
        process.start()
        process.join()
    return 130 if came and process.exitcode else process.exitcode


def _clipgen(words: list[str], folder: Path, environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    with open(folder / LOG, "a", buffering=1, encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    for number in (signal.SIGINT, signal.SIGTERM):  # whatever the caller does with them
        signal.signal(number, signal.default_int_handler)
    sys.argv = ["clipgen"]
    from clipgen.cli.main import main

    with alone(folder, say):  # of a killed sweep the job may still be at work
        main(words)


@contextmanager
def _signals_are_its_own(process) -> Iterator[list[int]]:
    """Ctrl-C reaches the job by itself, which saves and ends; another signal would end this process alone.

    Gives what came.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return

    def keep(number: int, _) -> None:
        came.append(number)
        if number == signal.SIGTERM:
            with suppress(ProcessLookupError, TypeError):
                os.kill(process.pid, number)

    before = {number: signal.signal(number, keep) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def spent(folder: Path) -> float:
    """The seconds that earlier commands gave to a job."""
    try:
        return float(json.loads((folder / FILE).read_text("utf-8"))["seconds"])
    except (OSError, ValueError, KeyError):
        return 0.0


def failure(status: int, log: Path, written: int) -> str:
    """Why a job ended so, in a line: what it said itself, the last line of a traceback, or the signal.

    The first `written` bytes of the log are of earlier commands.
    """
    if status < 0:
        name = signal.Signals(-status).name
        return f"ended by {name}" + (", most likely for want of memory" if name == "SIGKILL" else "")
    text = log.read_bytes()[written:].decode("utf-8", "replace") if log.is_file() else ""
    lines = [line for line in re.split("[\r\n]", text) if line.strip()]
    marker = "clipgen: error: "
    own = [line.partition(marker)[2] for line in lines[-50:] if marker in line]
    return own[-1] if own else lines[-1].strip() if lines else f"ended with status {status}"
