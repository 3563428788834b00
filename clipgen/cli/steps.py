"""Commands of clipgen one after the other, each in a process of its own, and run again only when there is a reason."""

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipgen.cli.launch import INTERRUPTED, ending_together
from clipgen.cli.record import FILE as STAGE
from clipgen.cli.say import say
from clipgen.data.atomic import write_json


@dataclass(frozen=True)
class Step:
    """`clipgen WORDS`, which leaves `made` from the files `inputs`; a stage.json counts when it says done."""

    words: tuple[str, ...]
    made: Path
    inputs: tuple[Path, ...] = ()

    @property
    def typed(self) -> str:
        return " ".join(("clipgen", *self.words))


class Failed(Exception):
    """A step ended with a status that is not 0."""

    def __init__(self, step: Step, status: int):
        super().__init__(f"`{step.typed}` ended with status {status}")
        self.status = status


@dataclass
class Steps:
    """What was run is kept in a file: the same words on the same inputs are not run again where their product is."""

    path: Path
    asked: list[Step] = field(default_factory=list)  # in this process, run or not

    def run(self, step: Step) -> None:
        """Failed where it fails; SystemExit where Ctrl-C ended it."""
        self.asked.append(step)
        if self.fresh(step):
            return
        say(f"\n{step.typed}")
        process = start(step.words)
        with ending_together([process]):
            status = process.wait()
        if status in (INTERRUPTED, -2, -15):
            raise SystemExit(INTERRUPTED)
        if status:
            raise Failed(step, status)
        self._keep(step)

    def fresh(self, step: Step) -> bool:
        """Whether it was run with these words on these inputs, and what it made is still there, whole."""
        return _whole(step.made) and self._kept().get(str(step.made)) == _state(step)

    def _kept(self) -> dict[str, Any]:
        return json.loads(self.path.read_text(encoding="utf-8")) if self.path.is_file() else {}

    def _keep(self, step: Step) -> None:
        write_json(self.path, self._kept() | {str(step.made): _state(step)})


def start(words: Iterable[str]) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "clipgen.cli.main", *words])


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
