"""A sweep from its first job to its last: what is refused before, what is said after, and the page.

A Hydra callback (conf/train.yaml, conf/run.yaml), so that it holds for every sweeper and launcher.
"""

import json
import math
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from clipgen.cli.job import FILE
from clipgen.cli.say import say
from clipgen.cli.score import check_asked, direction_of, is_figure
from clipgen.errors import UserError

ABOUT = "sweep.json"
ELSEWHERE = {"name", "out", "sweep", "launcher", "metric", "direction", "stage", "task"}  # or checked by themselves


class Sweep(Callback):
    """Holds the sweep's folder while it runs; what is known of it lies in `sweep.json` and each `job.json`."""

    def __init__(self) -> None:
        self.lock: FileLock | None = None

    def __getstate__(self) -> dict:  # of its copies in the workers, which hold nothing
        return {"lock": None}

    def on_multirun_start(self, config: DictConfig, **_) -> None:
        from clipgen.data.atomic import write_json
        from clipgen.evaluation.sweep import WAITING

        with ends_the_sweep():
            swept = swept_values(config)
            check_sweep(config, swept)
            folder = Path(config.hydra.sweep.dir)
            self.lock = held(folder)
            sweep = about(config, swept)
            jobs = {path: json.loads(path.read_text("utf-8")) for path in folder.glob(f"*/{FILE}")}
            unfinished = {path: job for path, job in jobs.items() if job["status"] != "done"}
            check_earlier(folder, sweep, [job for path, job in jobs.items() if path not in unfinished])
            for path, job in unfinished.items():  # tried again, if it is asked for again
                write_json(path, job | {"status": WAITING})
            write_json(folder / ABOUT, sweep)

    def on_multirun_end(self, config: DictConfig, **_) -> None:
        from clipgen.evaluation.sweep import read_sweep, write_page

        with ends_the_sweep():
            folder = Path(config.hydra.sweep.dir)
            sweep = read_sweep(folder)
            done, failed = sweep.ranked(), [job for job in sweep.jobs if job.status == "failed"]
            say(f"sweep: {len(done)} of {len(done) + len(failed)} jobs done; {write_page(folder)} shows them")
            if done:
                say(f"  best: {sweep.metric} {done[0].score:.4g} with {done[0].values_line}")
            for job in failed:
                print(f"  failed: {job.values_line or job.folder.name}: {job.reason}", file=sys.stderr)
            if self.lock:
                self.lock.release()
            if failed:
                print("  the same command again runs what is missing", file=sys.stderr, flush=True)
                raise SystemExit(1)


@contextmanager
def ends_the_sweep() -> Iterator[None]:
    """Hydra makes a warning of what a callback raises, and goes on; a line or a traceback and the end it is here."""
    from clipgen.cli.main import reported

    try:
        with reported():
            yield
    except Exception as problem:
        traceback.print_exc()
        raise SystemExit(1) from problem


def swept_values(config: DictConfig) -> dict[str, int | None]:
    """The keys whose values differ between jobs → how many values; None for a range that a sweeper draws from."""
    params = config.hydra.sweeper.get("params") or {}
    words = [*(f"{key}={value}" for key, value in params.items()), *config.hydra.overrides.task]
    found: dict[str, int | None] = {}
    for override in OverridesParser.create().parse_overrides(words):
        key = override.get_key_element()
        if not override.is_sweep_override():
            found.pop(key, None)  # what is typed wins over what is saved
        else:
            discrete = override.is_discrete_sweep()
            found[key] = len(list(override.sweep_string_iterator())) if discrete else None
    return found


def values_only(swept: dict[str, int | None]) -> bool:
    """Whether the jobs differ in single values: what a group of settings brings is known to each job alone."""
    return all("." in key or key == "seed" for key in swept)


def check_sweep(config: DictConfig, swept: dict[str, int | None]) -> None:
    """UserError for what would fail in every job, or must not be started by several processes at once."""
    if config.trainer.devices > 1 or "trainer.devices" in swept:
        devices = "several" if "trainer.devices" in swept else config.trainer.devices
        one = " ".join(f"{key}=VALUE" for key in swept if key != "trainer.devices")
        raise UserError(
            f"trainer.devices={devices} in a sweep: a job is one process. Take trainer.devices=1 (launcher=joblib or "
            f"slurm runs jobs side by side), or type the jobs one by one without -m: clipgen "
            f"{sys.argv[0].split()[-1]} trainer.devices=N {one} name=ANOTHER_EACH_TIME"
        )
    direction_of(config.metric, config.direction)
    if values_only(swept):
        check_asked(config)
    if is_figure(config.metric) and config.stage not in (None, "transformer", "paired"):
        raise UserError(
            f"metric={config.metric} is a figure of generated images, which stage={config.stage} makes none of; take "
            "val/loss or another column of metrics.csv, such as val/psnr"
        )
    if not swept:
        raise UserError("-m sweeps, but no setting has several values; type some, as seed=0,1,2, or leave -m out")


def check_earlier(folder: Path, sweep: dict[str, Any], done: list[dict[str, Any]]) -> None:
    """UserError where the folder has finished jobs of another kind: they would be ranked with those to come."""
    about = folder / ABOUT
    earlier = json.loads(about.read_text("utf-8")) if about.is_file() else {}
    swept = {*sweep["swept"], *earlier.get("swept", [])}
    for job in done:
        for key, now in sweep["of"].items():
            was = job["command"][0] if key == "command" else job.get(key, now)
            if was != now:
                raise UserError(
                    f"{folder} has finished jobs of another sweep: {key} {was}, and now {now}; they cannot be ranked "
                    "together, so take another name= or hydra.sweep.dir=multirun/NAME"
                )
        was, now = settings_of(job["overrides"]), sweep["settings"]
        for key in sorted({*was, *now} - swept):
            if was.get(key) == now.get(key):
                continue
            raise UserError(
                f"{folder} has finished jobs with {key}={was.get(key, '(as shipped)')}, and now it is "
                f"{now.get(key, 'as shipped')}; they cannot be ranked together, so take another name= or "
                "hydra.sweep.dir=multirun/NAME"
            )


def settings_of(words: list[str]) -> dict[str, str]:
    """What is typed for the result of a job, by key; not where it runs, nor what is swept."""
    found = {}
    for override in OverridesParser.create().parse_overrides(words):
        key = override.get_key_element()
        if not override.is_sweep_override() and key not in ELSEWHERE and not key.startswith(("trainer.", "hydra")):
            found[key] = str(override.get_value_element_as_str())
    return found


def held(folder: Path) -> FileLock:
    from clipgen.data.lock import lock_of

    lock = lock_of(folder)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"{folder} is being swept by another process; wait until it ends, or sweep under another name="
        ) from None
    return lock


def about(config: DictConfig, swept: dict[str, int | None]) -> dict[str, Any]:
    sweeper = config.hydra.sweeper
    of = {"command": sys.argv[0].split()[-1], "metric": config.metric}
    if values_only(swept):
        of |= {"stage": config.stage, "task": config.task}
    jobs = sweeper.n_trials if "n_trials" in sweeper else math.prod(count or 1 for count in swept.values())
    return {
        "command": [*sys.argv[0].split(), *(word for word in sys.argv[1:] if "override_dirname" not in word)],
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "name": config.name,
        "metric": config.metric,
        "direction": direction_of(config.metric, config.direction),
        "swept": list(swept),
        "settings": settings_of(list(config.hydra.overrides.task)),
        "jobs": jobs,
        "of": of,
    }
