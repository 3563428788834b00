"""Jobs as tasks of a Ray cluster. Ray runs a task again whose worker or node was lost."""

import os
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from clipgen.errors import UserError
from data_prep.executor import Executor, Work, call_elsewhere, lost, not_installed

RETRIES = 3


def run_on_ray(work: Work, jobs: Sequence[Any], executor: Executor, bar: tqdm) -> None:
    """Call `work` for every job on the cluster at `executor.address`; UserError where it cannot be done."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports its use over the network otherwise
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        from ray.exceptions import RayError, RayTaskError
    except ModuleNotFoundError as error:
        raise not_installed("ray") from error
    ours = not ray.is_initialized()
    if ours:
        _connect(ray, executor)
    waiting: list[Any] = []
    try:
        _check_room(ray, executor)
        remote = ray.remote(num_cpus=executor.cpus, num_gpus=executor.gpus, max_retries=RETRIES)(call_elsewhere)
        to_do = iter(jobs)
        room = executor.tasks or len(jobs)
        while True:
            while len(waiting) < room and (job := next(to_do, None)) is not None:
                waiting.append(remote.remote(work, [job], os.getcwd()))
            if not waiting:
                return
            finished, waiting = ray.wait(waiting, num_returns=1)
            for outcome in ray.get(finished):
                if isinstance(outcome, UserError):
                    raise outcome
                bar.update(outcome)
    except RayTaskError:
        raise  # a defect of ours, which keeps its traceback
    except RayError as error:
        raise lost(f"a Ray worker was lost {RETRIES + 1} times", str(error)) from error
    finally:
        for task in waiting:
            ray.cancel(task, force=True)
        if ours:
            ray.shutdown()


def _connect(ray: Any, executor: Executor) -> None:
    try:
        ray.init(executor.address, logging_level="ERROR", log_to_driver=False)
    except (ConnectionError, ValueError, TimeoutError, RuntimeError) as error:
        detail = " ".join(str(error).split()).partition(". ")[0]
        raise UserError(
            f"executor.address={executor.address}: no Ray cluster answers there ({detail}); start one with "
            "`ray start --head`, or take executor.address=local for this machine alone"
        ) from error


def _check_room(ray: Any, executor: Executor) -> None:
    """A task that fits on no node would wait for ever."""
    for name, wanted in (("CPU", executor.cpus), ("GPU", executor.gpus)):
        most = max((node["Resources"].get(name, 0) for node in ray.nodes() if node["Alive"]), default=0)
        if wanted > most:
            raise UserError(
                f"executor.{name.lower()}s={wanted:g}, but no node of the Ray cluster has more than {most:g}; ask for "
                "less, or add a node"
            )
