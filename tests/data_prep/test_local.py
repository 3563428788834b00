"""Processes: all work is done once, and a failure or Ctrl-C ends it at once with one line."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from clipgen.errors import UserError
from data_prep.executor import run
from data_prep.local import get_ready

def work(job, tick):
    number, folder = job
    for _ in range(50):
        if number == 2 and WHAT == "killed":
            os.kill(os.getpid(), 9)
        if number == 2 and WHAT == "fails":
            raise UserError("job 2 is impossible")
        if WHAT == "waits":
            (folder / "started").touch()
            time.sleep(0.2)
        tick()
    (folder / str(number)).touch()

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
    try:
        if WHAT == "waits":
            (Path(sys.argv[1]) / "begun").touch()
            get_ready("colorsys")
        run(work, [(n, Path(sys.argv[1])) for n in range(5)], int(sys.argv[2]), "working", 250)
    except UserError as error:
        print(error)
    except KeyboardInterrupt:
        print("interrupted")
"""


def start(folder: Path, what: str, workers: int = 2) -> subprocess.Popen:
    script = folder / "script.py"
    script.write_text(f"WHAT = {what!r}\n{SCRIPT}")
    return subprocess.Popen(
        [sys.executable, script, folder, str(workers)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize("workers", [1, 2, 9])
def test_every_job_is_done(tmp_path, workers):
    _, bar = start(tmp_path, "works", workers).communicate(timeout=60)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2", "3", "4", "script.py"]
    assert "250/250" in bar


@pytest.mark.parametrize(
    "what, says", [("killed", "one of 2 worker processes was killed"), ("fails", "job 2 is impossible")]
)
def test_a_failure_is_one_line(tmp_path, what, says):
    said, _ = start(tmp_path, what).communicate(timeout=60)
    assert said.startswith(says) and said.count("\n") == 1


def interrupt(folder: Path, when: str, later: float = 0) -> float:
    """Ctrl-C so many seconds after a file appears; how long it took to end with one line."""
    process = start(folder, "waits")
    deadline = time.monotonic() + 30
    while not (folder / when).exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(later)
    os.killpg(process.pid, signal.SIGINT)
    asked = time.monotonic()
    said, errors = process.communicate(timeout=30)  # ends only when no process holds the pipes any more
    assert said == "interrupted\n", (later, said)
    assert all(line.startswith("working:") for line in errors.splitlines() if line), (later, errors)  # the bar
    return time.monotonic() - asked


def test_ctrl_c_stops_all_processes_within_a_file(tmp_path):
    assert interrupt(tmp_path, "started") < 5  # a job takes 10 s


@pytest.mark.parametrize(
    "moment", [*range(3), *(pytest.param(moment, marks=pytest.mark.slow) for moment in range(3, 60))]
)
def test_ctrl_c_while_processes_are_started(tmp_path, moment):
    interrupt(tmp_path, "begun", random.Random(moment).uniform(0, 0.6))
