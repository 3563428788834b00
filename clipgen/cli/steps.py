"""Commands of clipgen, each in a process of its own, and run again only when there is a reason."""

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipgen.cli.job import LOG, failure
from clipgen.cli.launch import INTERRUPTED, ending_together
from clipgen.cli.record import FILE as STAGE
from clipgen.cli.say import say
from clipgen.data.atomic import write_json

FILE = "steps.json"  # in the folder of what runs them


@dataclass(frozen=True)
class Step:
    """`clipgen WORDS`, which leaves `made` from the files `inputs`; a stage.json counts when it says done."""

    words: tuple[str, ...]
    made: Path
    inputs: tuple[Path, ...] = ()

    @property
    def typed(self) -> str:
        return shlex.join(("clipgen", *self.words))


class Failed(Exception):
    """A step ended with a status that is not 0."""

    def __init__(self, step: Step, status: int, reason: str | None = None):
        super().__init__(f"`{step.typed}` ended with status {status}" + (f": {reason}" if reason else ""))
        self.status = status


@dataclass
class Steps:
    """What was run is kept in a file: the same words on the same inputs are not run again where their product is."""

    path: Path
    asked: list[Step] = field(default_factory=list)  # in this process, run or not

    def run(self, step: Step) -> None:
        """Failed where it fails; SystemExit where Ctrl-C ended it."""
        for failed in self.run_all([step]).values():
            raise failed

    def run_all(self, steps: Sequence[Step], at_once: int = 1) -> dict[Step, Failed]:
        """Those that failed; the others are run all the same. SystemExit where Ctrl-C ended one.

        Where several run at once, each writes what it has to say into a file beside what it makes.
        """
        self.asked += steps
        waiting = [step for step in steps if not self.fresh(step)]
        running: dict[subprocess.Popen, tuple[Step, Path | None, int]] = {}
        failed, interrupted = {}, False
        with ending_together(running):
            while running or (waiting and not interrupted):
                while waiting and len(running) < at_once and not interrupted:
                    step = waiting.pop(0)
                    log = step.made.parent.parent / LOG if at_once > 1 else None
                    say(f"\n{step.typed}" + (f"\n  ({log} tells more)" if log else ""))
                    running[start(step.words, log)] = step, log, _size(log)
                ended = [process for process in running if process.poll() is not None]
                for process in ended:
                    step, log, written = running.pop(process)
                    status = process.returncode
                    interrupted |= status in (INTERRUPTED, -2, -15)
                    if status:
                        failed[step] = Failed(step, status, failure(status, log, written) if log else None)
                        continue
                    self._keep(step)
                    if log:
                        say(f"{step.made.parent} is there; {len(running) + len(waiting)} to go")
                if not ended:
                    time.sleep(0.1)
        if interrupted:
            raise SystemExit(INTERRUPTED)
        return failed

    def fresh(self, step: Step) -> bool:
        """Whether it was run with these words on these inputs, and what it made is still there, whole."""
        return _whole(step.made) and self._kept().get(str(step.made)) == _state(step)

    def _kept(self) -> dict[str, Any]:
        return json.loads(self.path.read_text(encoding="utf-8")) if self.path.is_file() else {}

    def _keep(self, step: Step) -> None:
        write_json(self.path, self._kept() | {str(step.made): _state(step)})


def start(words: Iterable[str], log: Path | None) -> subprocess.Popen:
    command = [sys.executable, "-m", "clipgen.cli.main", *words]
    if log is None:
        return subprocess.Popen(command)
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a", encoding="utf-8") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)


def _size(log: Path | None) -> int:
    return log.stat().st_size if log and log.is_file() else 0


def _whole(made: Path) -> bool:
    if not made.is_file():
        return False
    return made.name != STAGE or json.loads(made.read_text(encoding="utf-8"))["status"] == "done"


def _state(step: Step) -> dict[str, Any]:
    stamps = {str(path): _stamp(path) for path in step.inputs}
    return {"words": list(step.words), "inputs": stamps}


def _stamp(path: Path) -> Sequence[int] | None:
    if not path.is_file():
        return None
    seen = path.stat()
    return [seen.st_size, seen.st_mtime_ns]
