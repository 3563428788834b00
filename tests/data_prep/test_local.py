"""Processes: all work is done once, and a failure or Ctrl-C ends it at once with one line."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = """
import os, sys, time
from pathlib import Path
from clipgen.errors import UserError
from data_prep.executor import run

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
    try:
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


def test_ctrl_c_stops_all_processes_within_a_file(tmp_path):
    process = start(tmp_path, "waits")
    deadline = time.monotonic() + 30
    while not (tmp_path / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    asked = time.monotonic()
    said, errors = process.communicate(timeout=30)  # ends only when no process holds the pipes any more
    assert said == "interrupted\n" and "Traceback" not in errors
    assert time.monotonic() - asked < 5  # a job takes 10 s
