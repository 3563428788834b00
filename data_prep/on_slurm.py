"""Jobs as an array of Slurm, through submitit. Each task of the array makes its share of the shards."""

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from clipgen.data.atomic import explained
from clipgen.errors import UserError
from data_prep.executor import Executor, Work, call_elsewhere, lost, not_installed


def run_on_slurm(work: Work, jobs: Sequence[Any], executor: Executor, bar: tqdm) -> None:
    """Call `work` for every job in an array of tasks; UserError where it cannot be done."""
    try:
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError, UncompletedJobError
    except ModuleNotFoundError as error:
        raise not_installed("submitit") from error
    here = executor.address == "local"
    if executor.address not in ("auto", "local"):
        raise UserError(f"executor.address={executor.address}; Slurm knows auto (the cluster here) and local")
    if executor.gpus % 1:
        raise UserError(f"executor.gpus={executor.gpus:g}; Slurm gives whole ones")
    if not here and shutil.which("sbatch") is None:
        raise UserError(
            "executor=slurm: there is no sbatch here; run this on a login node of the cluster, or take "
            "executor.address=local or executor=local for this machine alone"
        )
    logs = Path(executor.logs).absolute() / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    with explained(logs):
        logs.mkdir(parents=True)
    queue = submitit.AutoExecutor(logs, cluster="local" if here else "slurm")
    options = {f"slurm_{name}": value for name, value in executor.options.items()}
    queue.update_parameters(
        name="clipgen",
        timeout_min=executor.minutes,
        cpus_per_task=executor.cpus,
        gpus_per_node=int(executor.gpus),
        **options,
    )
    tasks = min(len(jobs), executor.tasks or (os.cpu_count() or 1 if here else len(jobs)))
    shares = [jobs[first::tasks] for first in range(tasks)]
    submitted: list[Any] = []
    try:
        submitted = queue.map_array(call_elsewhere, [work] * tasks, shares, [os.getcwd()] * tasks)
        for task in submitit.helpers.as_completed(submitted, poll_frequency=0.2 if here else 5):
            outcome = task.result()
            if isinstance(outcome, UserError):
                raise outcome
            bar.update(outcome)
    except BaseException as error:
        for task in submitted:
            task.cancel()
        if isinstance(error, FailedSubmissionError):
            raise UserError(
                f"executor=slurm: sbatch refused the jobs ({' '.join(str(error).split())[:300]})"
            ) from error
        if isinstance(error, UncompletedJobError) and not isinstance(error, FailedJobError):  # that is a defect of ours
            raise lost("a task of Slurm was lost", f"its log is in {logs}") from error
        raise
    shutil.rmtree(logs)
