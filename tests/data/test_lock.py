"""Two processes that want the same thing made."""

import signal
import subprocess
import sys
import time
from pathlib import Path

MAKER = """
import sys, time
from pathlib import Path
from clipgen.data.lock import alone
folder = Path(sys.argv[1])
with alone(folder, lambda line: print(line, flush=True)):
    if not folder.exists():
        print("makes it", flush=True)
        time.sleep(float(sys.argv[2]))
        folder.mkdir()
"""


def maker(folder: Path, seconds: float) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", MAKER, str(folder), str(seconds)], stdout=subprocess.PIPE, text=True)


def test_of_two_that_start_at_once_one_makes_it_and_the_other_says_that_it_waits(tmp_path):
    folder = tmp_path / "new" / "shards-1"
    both = [maker(folder, 1.0) for _ in range(2)]
    said = sorted(process.communicate(timeout=60)[0] for process in both)
    assert said == [f"{folder} is being made by another process; this one waits\n", "makes it\n"]
    assert all(process.returncode == 0 for process in both)


def test_a_killed_process_holds_nothing(tmp_path):
    folder = tmp_path / "latents-1"
    first = maker(folder, 60)
    assert first.stdout.readline() == "makes it\n"
    second = maker(folder, 0)
    assert "waits" in second.stdout.readline()
    time.sleep(0.2)
    assert second.poll() is None
    first.send_signal(signal.SIGKILL)
    assert second.communicate(timeout=60)[0] == "makes it\n"
    first.wait()
