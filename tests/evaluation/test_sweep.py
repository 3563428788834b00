"""The page of a sweep, from what lies in its folder."""

import base64
import hashlib
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from clipgen.data.lock import lock_of
from clipgen.errors import UserError
from clipgen.evaluation.scatter import Dot, scatter
from clipgen.evaluation.sweep import is_sweep, read_sweep, write_page

LR = "transformer.train.lr"


def job(sweep: Path, lr: str, recipe: str, **about) -> Path:
    folder = sweep / f"{LR}={lr},recipe={recipe.replace('/', '_')}"
    folder.mkdir(parents=True)
    overrides = ["stage=transformer", "name=birds", f"{LR}={lr}", f"recipe={recipe}", "launcher=joblib"]
    about = {"overrides": overrides, "command": ["train", *overrides], "stage": "transformer"} | about
    (folder / "job.json").write_text(json.dumps(about))
    return folder


@pytest.fixture
def sweep(tmp_path) -> Path:
    """Three finished jobs, one that failed, one that runs, one that has not begun."""
    folder = tmp_path / "birds"
    job(folder, "0.001", "gap/default", status="done", score=2.5, seconds=60.0)
    best = job(folder, "0.003", "gap/default", status="done", score=2.25, seconds=61.0)
    worst = job(folder, "0.01", "gap/no_noise", status="done", score=3.5, seconds=9.0)
    job(folder, "0.1", "gap/default", status="failed", reason="the loss is <b>NaN</b>", seconds=3.0)
    job(folder, "0.3", "gap/default", status="running")
    for place, colour in ((best, "teal"), (worst, "maroon")):
        (place / "transformer" / "grids").mkdir(parents=True)
        Image.new("RGB", (40, 20), colour).save(place / "transformer" / "grids" / "latest.png")
        (place / "transformer" / "best.ckpt").touch()
    about = {
        "command": ["clipgen", "train", "-m", f"{LR}=1e-3,3e-3"], "metric": "val/loss", "direction": "minimize",
        "swept": [LR, "recipe"], "jobs": 6,
    }  # fmt: skip
    (folder / "sweep.json").write_text(json.dumps(about))
    return folder


def text_of(folder: Path) -> str:
    return write_page(folder).read_text(encoding="utf-8")


def test_the_best_has_its_command_and_the_jobs_stand_in_order(sweep):
    html = text_of(sweep)
    assert f"clipgen train stage=transformer name=birds {LR}=0.003 recipe=gap/default</pre>" in html
    assert "transformer/best.ckpt</pre>" in html
    assert [job.score for job in read_sweep(sweep).ranked()] == [2.25, 2.5, 3.5]
    assert re.findall(r'data-value="(\d\.\d+)">\d\.\d+</td><td data-value="\d+\.', html) == ["2.25", "2.5", "3.5"]
    assert html.count("data:image/png") == 2  # the best and the worst
    assert "3 of 6" in html


def test_what_is_not_finished_is_named(sweep):
    html = text_of(sweep)
    assert f"failed: {LR}=0.1, recipe=gap/default: the loss is &lt;b&gt;NaN&lt;/b&gt;" in html
    assert f"not finished: {LR}=0.3, recipe=gap/default" in html and "not begun: 1 of 6 jobs" in html


def test_a_job_runs_only_as_long_as_a_process_does(sweep):
    def status() -> str:
        return next(job.status for job in read_sweep(sweep).jobs if job.folder == running)

    running = next(path for path in sweep.iterdir() if path.name.startswith(f"{LR}=0.3"))
    assert status() == "stopped", "whoever was to say so was killed"
    for held in (sweep, running):  # the sweep goes on, or left the job behind
        with lock_of(held):
            assert status() == "running"
    assert status() == "stopped" and "stopped</td>" in text_of(sweep)


def test_higher_may_be_better(sweep):
    about = json.loads((sweep / "sweep.json").read_text())
    (sweep / "sweep.json").write_text(json.dumps(about | {"metric": "judge.all", "direction": "maximize"}))
    assert [job.score for job in read_sweep(sweep).ranked()] == [3.5, 2.5, 2.25]
    assert "Jobs are judged by judge.all; higher is better." in text_of(sweep)


def test_the_page_allows_its_one_script_and_no_other(sweep):
    html = text_of(sweep)
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html and "default-src 'none'" in html


def test_a_sweep_of_which_nothing_is_done_has_a_page(sweep):
    for path in sweep.glob("*/job.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"status": "running", "score": None}))
    assert "0 of 6" in text_of(sweep)


def test_a_job_that_cannot_be_read_is_named_and_a_sweep_is_an_error(sweep):
    next(sweep.glob("*/job.json")).write_text("{")
    assert "job.json is not readable" in text_of(sweep)
    (sweep / "sweep.json").write_text('{"metric": "val/loss"}')
    with pytest.raises(UserError, match=r"sweep.json is not readable"):
        read_sweep(sweep)
    assert is_sweep(sweep) and not is_sweep(sweep.parent)


def test_numbers_stand_to_scale_and_words_side_by_side():
    def across(*values: str) -> list[float]:
        html = scatter("x", "loss", [Dot(value, i, value, i == 0) for i, value in enumerate(values)])
        found = re.findall(r'cx="([\d.]+)"[^>]*><title>([^:]+):', html)
        return [float(dict((name, x) for x, name in found)[value]) for value in values]

    low, middle, high = across("1e-4", "1e-3", "1e-2")
    assert middle - low == pytest.approx(high - middle, abs=0.2)  # logarithmic
    low, middle, high = across("1", "2", "4")
    assert high - middle == pytest.approx(2 * (middle - low), abs=0.2)
    low, middle, high = across("gap/a", "gap/b", "null")
    assert middle - low == pytest.approx(high - middle, abs=0.2)
    assert across("7", "7") == pytest.approx([across("7")[0]] * 2)
