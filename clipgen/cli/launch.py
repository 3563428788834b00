"""One training in several processes, one a device: started here, or by torchrun on several machines."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

INTERRUPTED = 130  # the status of a process that Ctrl-C ended
PATIENCE = 30  # seconds that the others have to end after one of them did


def launched() -> bool:
    """Whether this process is one of several, and not the one to start them."""
    return "LOCAL_RANK" in os.environ


def launch(devices: int, words: Sequence[str]) -> None:
    """Run `clipgen WORDS` in `devices` processes; all but the first are silent. SystemExit where one of them fails."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(devices),
        "LOCAL_WORLD_SIZE": str(devices), "GROUP_RANK": "0",
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        processes: list[subprocess.Popen] = []
        with ending_together(processes):
            for rank in range(devices):
                environment = os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                with open(f"{folder}/{rank}", "w") as errors:
                    silent = {"stdout": subprocess.DEVNULL, "stderr": errors} if rank else {}
                    command = [sys.executable, "-m", "clipgen.cli.main", *words]
                    processes.append(subprocess.Popen(command, env=environment, **silent))
            failed = _first_to_fail(processes)
        if failed:  # which the first process has said itself
            sys.stderr.write(Path(f"{folder}/{failed}").read_text(errors="replace")[-4000:])
    if failed is not None:
        code = processes[failed].returncode
        raise SystemExit(code if code > 0 else 128 - code)


@contextmanager
def ending_together(processes: Iterable[subprocess.Popen]) -> Iterator[None]:
    """Ctrl-C reaches all processes by itself, and they save and end; SIGTERM, which does not, is passed on."""

    def pass_on(number: int, _) -> None:
        for process in [*processes]:
            process.send_signal(number)

    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, lambda *_: None),
        signal.SIGTERM: signal.signal(signal.SIGTERM, pass_on),
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _first_to_fail(processes: Sequence[subprocess.Popen]) -> int | None:
    """The number of the process that failed first, after all have ended; the others are made to."""
    running = set(range(len(processes)))
    while running:
        time.sleep(0.1)
        ended = {rank for rank in running if processes[rank].poll() is not None}
        running -= ended
        failed = [rank for rank in sorted(ended) if processes[rank].returncode]
        if failed:
            # one that only lost its peer ends by a traceback, one that has something to say by a status above 1
            first = min(failed, key=lambda rank: (processes[rank].returncode == 1, rank))
            status = processes[first].returncode
            _end([processes[rank] for rank in running], 10 if status == INTERRUPTED else 3)
            return 0 if processes[0].returncode == status else first  # what the first process has said is seen
    return None


def _end(processes: Sequence[subprocess.Popen], patience: float) -> None:
    deadline = time.monotonic() + patience  # one may just be saying the same
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def join(device: str) -> None:
    """Meet the other processes; all but the first say nothing more."""
    import torch
    import torch.distributed as dist

    if not launched() or dist.is_initialized():
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo")
    if dist.get_rank():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
