"""One training in several processes, one a device: started here, or by torchrun on several machines."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from clipgen.errors import UserError

PATIENCE = 30  # seconds that the others have to end after one of them did


def launched() -> bool:
    """Whether this process is one of several, and not the one to start them."""
    return "LOCAL_RANK" in os.environ


def launch(devices: int, words: Sequence[str]) -> None:
    """Run `clipgen WORDS` in `devices` processes; all but the first are silent. SystemExit where one of them fails."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        raise UserError(
            f"trainer.devices={devices} in a sweep: each of these processes would start the sweep again; take "
            "trainer.devices=1, or type the jobs one by one without -m"
        )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(devices),
        "LOCAL_WORLD_SIZE": str(devices), "GROUP_RANK": "0",
    }  # fmt: skip
    with tempfile.TemporaryFile("w+") as errors:
        processes = []
        for rank in range(devices):
            environment = os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            silent = {"stdout": subprocess.DEVNULL, "stderr": errors} if rank else {}
            command = [sys.executable, "-m", "clipgen.cli.main", *words]
            processes.append(subprocess.Popen(command, env=environment, **silent))
        status = _wait(processes)
        if status and processes[0].returncode in (0, -signal.SIGTERM):  # another one failed and has not been heard
            errors.seek(0)
            sys.stderr.write(errors.read()[-4000:])
    if status:
        raise SystemExit(status)


def _wait(processes: Sequence[subprocess.Popen]) -> int:
    """The status of the first that failed; the others are ended then. Ctrl-C reaches all of them by itself."""
    status = 0
    running = list(processes)
    while running:
        try:
            running[0].wait(0.5)
        except subprocess.TimeoutExpired:
            pass
        except KeyboardInterrupt:
            continue  # they save and end by themselves
        ended = [process for process in running if process.poll() is not None]
        running = [process for process in running if process not in ended]
        failed = next((process.returncode for process in ended if process.returncode), 0)
        if failed and not status:
            status = failed if failed > 0 else 128 - failed
            _end(running)
            running = []
    return status


def _end(processes: Sequence[subprocess.Popen]) -> None:
    for process in processes:
        try:
            process.wait(3)  # it may just be saying why itself
        except subprocess.TimeoutExpired:
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
