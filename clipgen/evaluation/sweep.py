"""report.html of a sweep: every job in a table to sort, the metric against each swept setting, the best and the worst.

It reads `sweep.json` and each `job.json`, so it can be written at any time; what is not finished yet is named.
"""

import json
import shlex
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from clipgen.data.atomic import PREVIOUS, replacing
from clipgen.data.lock import is_held
from clipgen.errors import UserError
from clipgen.evaluation.figures import duration, is_number
from clipgen.evaluation.scatter import Dot, scatter
from clipgen.page import document, embed, section, sortable, table, tile

ABOUT, JOB = "sweep.json", "job.json"
WAITING = "waiting"  # a job of an earlier command that did not finish, until it is asked for again
WIDEST = 2000  # pixels of a picture
PICTURES = ("samples.png", "*/grids/latest.png")  # of a job, the first that is there
NAMED = 8  # jobs that are not finished


@dataclass
class Job:
    """A job of a sweep: what it was given of the swept settings, and what became of it."""

    folder: Path
    values: dict[str, str]
    status: str
    score: float | None = None
    reason: str = ""
    seconds: float | None = None
    command: list[str] = field(default_factory=list)

    @property
    def values_line(self) -> str:
        return ", ".join(f"{key}={_short(value)}" for key, value in self.values.items())


@dataclass
class Sweep:
    folder: Path
    about: dict[str, Any]
    jobs: list[Job]
    notes: list[str]

    @property
    def metric(self) -> str:
        return self.about["metric"]

    def ranked(self) -> list[Job]:
        """The finished jobs, the best first."""
        done = [job for job in self.jobs if job.score is not None]
        return sorted(done, key=lambda job: job.score, reverse=self.about["direction"] == "maximize")


def _short(value: str) -> str:
    """A drawn number without the digits that nobody reads."""
    try:
        return f"{float(value):.4g}" if len(value) > 8 else value
    except ValueError:
        return value


def is_sweep(folder: Path) -> bool:
    return (folder / ABOUT).is_file()


def write_page(folder: Path) -> Path:
    """Make `FOLDER/report.html` of the sweep that `folder` holds, and return its path."""
    html = page(read_sweep(folder))
    with replacing(folder / "report.html") as temporary:
        temporary.write_text(html, encoding="utf-8")
    return folder / "report.html"


def read_sweep(folder: Path) -> Sweep:
    """What is known of a sweep at this moment; UserError where `sweep.json` is not readable."""
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        swept = list(about["swept"])
        about["metric"], about["direction"], about["jobs"]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise UserError(
            f"{folder / ABOUT} is not readable ({problem}); the sweep's command writes it anew"
        ) from problem
    notes: list[str] = []
    at_work = is_held(folder)
    jobs = [_read_job(path, swept, notes, at_work) for path in sorted(folder.glob(f"*/{JOB}"))]
    jobs = [job for job in jobs if job.status != WAITING]
    for job in jobs:
        if job.status == "failed":
            notes.append(f"failed: {job.values_line or job.folder.name}: {job.reason}")
    open_ones = [job for job in jobs if job.status not in ("done", "failed")]
    if open_ones:
        names = [job.values_line or job.folder.name for job in open_ones[:NAMED]]
        more = len(open_ones) - len(names)
        notes.append(f"not finished: {'; '.join(names)}{f'; and {more} more' if more else ''}")
    if (missing := about["jobs"] - len(jobs)) > 0:
        notes.append(f"not begun: {missing} of {about['jobs']} jobs")
    return Sweep(folder, about, jobs, notes)


def _read_job(path: Path, swept: list[str], notes: list[str], at_work: bool) -> Job:
    """`at_work` is whether the sweep is; what was to say that a job ended may have been killed with it."""
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        given = dict(word.partition("=")[::2] for word in about["overrides"])
        values = {key: given[key] for key in swept if key in given}
        status, score = str(about["status"]), about.get("score")
        if status == "running" and not (at_work or is_held(path.parent)):
            status = "stopped"
        return Job(
            path.parent, values, status, score if is_number(score) else None,
            str(about.get("reason", "")), about.get("seconds"), ["clipgen", *about["command"]],
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        notes.append(f"{path.parent.name}/{JOB} is not readable: {problem}")
        return Job(path.parent, {}, "not readable")


def page(sweep: Sweep) -> str:
    """The whole page as HTML."""
    ranked, notes = sweep.ranked(), list(sweep.notes)
    keys = [key for key in sweep.about["swept"] if any(key in job.values for job in sweep.jobs)]
    better = "higher" if sweep.about["direction"] == "maximize" else "lower"
    parts = [_tiles(sweep, ranked), section("The best", _best(ranked[0], sweep, notes) if ranked else "")]
    if len(ranked) > 1:
        worst = ranked[-1]
        about_worst = f'<p class="facts">{escape(f"{sweep.metric} {worst.score:.4g} with {worst.values_line}")}</p>'
        parts.append(section("The worst", about_worst + _picture(worst, notes)))
    parts.append(section("All jobs", _jobs(sweep, ranked, keys)))
    if ranked:
        charts = [scatter(key, sweep.metric, _dots(ranked, key)) for key in keys]
        parts.append(section(f"{sweep.metric} against each setting", f'<div class="charts">{"".join(charts)}</div>'))
    facts = {key: value for key, value in sweep.about.items() if key not in ("command", "swept", "settings", "of")}
    command = f"<h3>The command</h3><pre>{escape(shlex.join(map(str, sweep.about.get('command', []))))}</pre>"
    parts.append(section("How it was made", command + table(facts.items())))
    swept = " and ".join([", ".join(keys[:-1]), keys[-1]] if len(keys) > 1 else keys)
    lead = f"A sweep over {swept or 'nothing yet'}. Jobs are judged by {sweep.metric}; {better} is better."
    return document(sweep.folder.resolve().name, lead, "".join(parts), notes)


def _dots(ranked: list[Job], key: str) -> list[Dot]:
    return [Dot(job.values[key], job.score, job.values_line, job is ranked[0]) for job in ranked if key in job.values]


def _tiles(sweep: Sweep, ranked: list[Job]) -> str:
    planned = max(sweep.about["jobs"], len(sweep.jobs))
    tiles = [tile(f"Best {sweep.metric}", f"{ranked[0].score:.4g}")] if ranked else []
    tiles.append(tile("Jobs done", f"{len(ranked)} of {planned}"))
    spent = [job.seconds for job in sweep.jobs if is_number(job.seconds)]
    tiles += [tile("Time of all jobs", duration(sum(spent)))] if spent else []
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _best(best: Job, sweep: Sweep, notes: list[str]) -> str:
    command = shlex.join(word for word in best.command if not word.startswith(("sweep=", "launcher=")))
    html = f'<p class="facts">{escape(f"{sweep.metric} {best.score:.4g} with {best.values_line}")}</p>'
    html += f"<h3>Train it under the run’s own name</h3><pre>{escape(command)}</pre>"
    if (best.folder / "model").is_dir():
        ask = shlex.join(["clipgen", "sample", f"model={best.folder / 'model'}", "what you would like to see"])
        html += f"<h3>Ask it</h3><pre>{escape(ask)}</pre>"
    weights = [path for name in ("best", "last") for path in _of_stages(best.folder, f"*/{name}.ckpt")]
    if weights:
        html += f"<h3>Its weights</h3><pre>{escape(str(weights[0]))}</pre>"
    return html + _picture(best, notes)


def _picture(job: Job, notes: list[str]) -> str:
    found = [path for pattern in PICTURES for path in _of_stages(job.folder, pattern)]
    if not found:
        return "<p>It has no pictures.</p>"
    return embed(found[0], notes, WIDEST, f"{job.values_line}: {found[0].name}")


def _of_stages(folder: Path, pattern: str) -> list[Path]:
    """Without those of a training that was set aside."""
    found = sorted(folder.glob(pattern))
    return [path for path in found if not path.relative_to(folder).parts[0].endswith(PREVIOUS)]


def _jobs(sweep: Sweep, ranked: list[Job], keys: list[str]) -> str:
    rows = []
    for job in [*ranked, *(job for job in sweep.jobs if job.score is None)]:
        cells: list[tuple[str, Any]] = [(_short(job.values.get(key, "–")), job.values.get(key)) for key in keys]
        cells.append(("–" if job.score is None else f"{job.score:.5g}", job.score))
        seconds = job.seconds if is_number(job.seconds) else None
        cells.append(("–" if seconds is None else duration(seconds), seconds))
        rows.append([*cells, (job.status, job.status)])
    return sortable(rows, [*keys, sweep.metric, "Time", "Status"]) if rows else "<p>No job has begun.</p>"
