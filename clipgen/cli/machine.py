"""The machine at hand: device, precision, threads, and what of it goes into run.json."""

import platform
import resource
import shlex
import subprocess
import sys
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from clipgen.bf16 import bf16_pays
from clipgen.config import Trainer
from clipgen.errors import UserError
from clipgen.ranks import cores, from_rank_zero


def pick_device(wanted: str) -> torch.device:
    """`auto` takes a GPU when there is one."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if wanted not in ("cpu", "cuda", "gpu"):
        raise UserError(f"device={wanted} is unknown; take auto, cpu or cuda")
    if wanted == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(f"device={wanted}: torch {torch.__version__} finds no GPU here; take device=cpu")
    return torch.device("cuda")


def pick_precision(trainer: Trainer) -> str:
    """`auto` takes bf16 matrices with float32 weights, or float32 for all where bf16 is not the faster."""
    if trainer.precision == "auto":
        pays = from_rank_zero(lambda: bf16_pays(pick_device(trainer.device).type))
        return "bf16-mixed" if pays else "32-true"
    return trainer.precision


def loader_workers(trainer: Trainer) -> int | None:
    """Processes that load batches; None leaves it to the data. On a CPU they would take cores from the training."""
    if trainer.num_workers is None and pick_device(trainer.device).type == "cpu":
        return 0
    return trainer.num_workers


def peak_memory_mb(device: torch.device) -> float:
    """The most that this process has held: of the GPU's memory, or of the machine's where it works on the CPU."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        kibibytes = next(float(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):  # no Linux, where getrusage would count what the parent had held at the fork
        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        kibibytes = held / 2**10 if sys.platform == "darwin" else held
    return round(kibibytes / 2**10, 1)


def describe(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name() if device.type == "cuda" else _processor()
    names = ("clipgen", "torch", "pytorch-lightning", "open_clip_torch", "webdataset", "hydra-core", "numpy", "pillow")
    return {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join([*Path(sys.argv[0]).name.split(), *sys.argv[1:]]),
        "commit": _commit(),
        "device": f"{device.type}: {name}",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in names},
    }


def made_with(device: torch.device) -> dict[str, Any]:
    """What stands beside figures, so that they can be made again: command, hardware, date, commit and versions."""
    about = describe(device)
    script = sys.argv[0].endswith(".py")
    return {
        "command": shlex.join(["python", *sys.argv]) if script else about["command"],
        "hardware": about["device"],
        "date": about["started"][:10],
        **{key: about[key] for key in ("commit", "threads", "python", "versions")},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {cores()} cores"


def _commit() -> str | None:
    """Of the source tree the package runs from, if it is one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        return subprocess.run(
            ["git", "-C", str(root), "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
