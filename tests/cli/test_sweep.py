"""Sweeps for real: each job a process, in this order of cost."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from filelock import Timeout
from omegaconf import OmegaConf

from clipgen.checkpoint import read_checkpoint
from clipgen.cli.job import failure, in_a_process
from clipgen.config import _flat
from clipgen.data.lock import lock_of
from clipgen.evaluation.sweep import read_sweep


@pytest.fixture
def words(tiny, run_folder, tokenizer, tmp_path, monkeypatch) -> list[str]:
    """`train -m` of stage 2 on the data of a finished run, in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    inputs = [f"{kind}={run_folder / kind}" for kind in ("shards", "latents")]
    return ["train", "-m", "stage=transformer", "name=bars", *tiny, *inputs, tokenizer]


def jobs(folder: Path) -> dict[str, dict]:
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(folder.glob("*/job.json"))}


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*.ckpt")) if not path.is_symlink()}


LR = "transformer.train.lr"


def test_a_job_that_fails_stops_no_other_and_what_is_missing_runs_again(clipgen, one_line, words, tmp_path):
    sweep = tmp_path / "multirun" / "bars"
    outcome = clipgen(*words, f"{LR}=-1,1e-3")
    assert outcome.status == 1
    reason = "transformer.train.lr=-1.0; take more than 0"
    assert (
        f"failed: {LR}=-1: {reason}" in outcome.error and "the same command again runs what is missing" in outcome.error
    )
    assert "sweep: 1 of 2 jobs done" in outcome.said and f"with {LR}=0.001" in outcome.said
    found = jobs(sweep)
    assert [about["status"] for about in found.values()] == ["failed", "done"]
    assert found[f"{LR}=-1"]["reason"] == reason and found[f"{LR}=0.001"]["score"] > 0
    assert reason in (sweep / "report.html").read_text()

    before = times(sweep)
    outcome = clipgen(*words, f"{LR}=3e-3,1e-3")
    assert outcome.status == 0 and "sweep: 2 of 2 jobs done" in outcome.said, outcome.error
    assert {path: when for path, when in times(sweep).items() if path in before} == before
    assert jobs(sweep)[f"{LR}=-1"] == found[f"{LR}=-1"] | {"status": "waiting"}, "which is not asked for"
    assert "transformer: done already" in (sweep / f"{LR}=0.001" / "job.log").read_text()
    said = one_line(clipgen(*words, f"{LR}=3e-3,1e-3", "metric=val/accuracy"))
    assert "multirun/bars has finished jobs of another sweep: metric val/loss, and now val/accuracy" in said
    said = one_line(clipgen("train", "-m", "stage=vqgan", "name=bars", "seed=0,1"))
    assert "finished jobs of another sweep: stage transformer, and now vqgan" in said
    said = one_line(clipgen(*words, f"{LR}=3e-3,1e-3", "transformer.train.clip_norm=0.5"))
    assert "has finished jobs with transformer.train.clip_norm=(as shipped), and now it is 0.5" in said
    page = clipgen("report", "multirun/bars")
    assert page.said == "report: multirun/bars/report.html\n"
    job = clipgen("report", f"multirun/bars/{LR}=0.001")
    assert job.status == 0 and job.said == f"report: multirun/bars/{LR}=0.001/report.html\n"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            ["seed=0,1", "trainer.devices=2"],
            "trainer.devices=2 in a sweep: a job is one process. Take trainer.devices=1",
        ),
        (
            ["seed=0,1", "trainer.devices=1,2"],
            "type the jobs one by one without -m: clipgen train trainer.devices=N seed=",
        ),
        (["seed=0"], "no setting has several values"),
        (["seed=0,1", "metric=spread.x"], "add direction=minimize or direction=maximize"),
        (["seed=0,1", "metric=clip.score.conditioning"], "needs something to ask for; give prompts="),
        (
            ["seed=0,1", "stage=paired", "metric=nearest.rms", "direction=minimize"],
            "needs something to ask for; give prompts=",
        ),
        (["seed=0,1", "transformer.widht=1,2"], "widht"),
        (["seed=0,1", "hydra/launcher=nonsense"], "Could not find 'hydra/launcher/nonsense'"),
        (["hydra/sweeper=optuna"], "no setting has several values"),
    ],
)
def test_what_would_fail_in_every_job_is_told_before_the_first(clipgen, one_line, words, tmp_path, more, said):
    assert said in one_line(clipgen(*words, *more))
    assert not list(tmp_path.glob("multirun/*/*/"))


@pytest.mark.slow
def test_captioners_are_swept_too(clipgen, tiny, captioned, tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["train", "-m", "stage=paired", "task=caption", "name=telling", *tiny, f"latents={captioned / 'latents'}"]
    outcome = clipgen(*words, tokenizer, "seed=0,1")
    assert outcome.status == 0 and "sweep: 2 of 2 jobs done" in outcome.said, outcome.error
    assert all(about["score"] > 0 for about in jobs(tmp_path / "multirun" / "telling").values())


def test_a_saved_sweep_needs_no_flag(clipgen, one_line, words):
    plain = [word for word in words if word != "-m"]
    assert "trainer.devices=3 in a sweep" in one_line(clipgen(*plain, "sweep=lr", "trainer.devices=3"))
    shown = clipgen(*plain, "sweep=optuna_transformer", "--cfg", "job")
    assert shown.status == 0 and "metric: val/loss" in shown.said


def test_one_command_sweeps_a_folder_at_a_time(clipgen, one_line, words):
    with lock_of("multirun/bars"):
        assert "multirun/bars is being swept by another process" in one_line(clipgen(*words, "seed=0,1"))


def test_a_long_name_is_a_folder_still():
    short, long = "a/b=1", "key=" + "ü" * 200
    assert _flat(short) == "a_b=1"
    assert len(_flat(long).encode()) < 256 and _flat(long) != _flat(long + "x")


def test_the_reason_of_a_failure_is_the_jobs_own_line(tmp_path):
    log = tmp_path / "job.log"
    earlier = "clipgen: error: of an earlier command\n"
    log.write_text(f"{earlier}training: 3%\rtraining: 4%\rclipgen: error: out of luck\nbye\n")
    assert failure(2, log, len(earlier)) == "out of luck"
    log.write_text(f"{earlier}Traceback\n  in f\nRuntimeError: CUDA error\n")
    assert failure(1, log, len(earlier)) == "RuntimeError: CUDA error"
    assert failure(1, log, log.stat().st_size) == "ended with status 1"
    assert failure(-signal.SIGKILL, log, 0) == "ended by SIGKILL, most likely for want of memory"


# Long counts


@pytest.mark.slow
def test_two_by_two(clipgen_process, words, tmp_path):
    outcome = clipgen_process(*words, f"{LR}=1e-3,3e-3", "seed=0,1", folder=tmp_path)
    assert outcome.status == 0, outcome.error
    found = jobs(tmp_path / "multirun" / "bars")
    assert len(found) == 4 and all(about["status"] == "done" for about in found.values())
    assert len({about["score"] for about in found.values()}) == 4
    assert json.loads((tmp_path / "multirun" / "bars" / "sweep.json").read_text())["jobs"] == 4


@pytest.mark.slow
def test_a_killed_study_continues_with_the_trials_that_are_missing(clipgen_process, words, tmp_path):
    sweep = tmp_path / "multirun" / "bars"
    study = [f"{LR}=tag(log,interval(1e-4,1e-2))", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=4"]
    command = [sys.executable, "-m", "clipgen.cli.main", *map(str, words), *study]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, start_new_session=True, cwd=tmp_path, **quiet) as run:
        while sum(about["status"] == "done" for about in jobs(sweep).values()) < 2 or len(jobs(sweep)) < 3:
            assert run.poll() is None and time.sleep(0.02) is None
        os.killpg(run.pid, signal.SIGKILL)
    cut = next(name for name, about in jobs(sweep).items() if about["status"] == "running")
    before = {path: when for path, when in times(sweep).items() if path.parents[1].name != cut}
    outcome = clipgen_process(*words, *study, folder=tmp_path)
    assert outcome.status == 0, outcome.error
    assert "optuna: 2 of 4 trials are finished, 1 were cut off" in outcome.said
    found = jobs(sweep)
    assert len(found) == 4 and cut in found and all(about["status"] == "done" for about in found.values())
    assert {path: when for path, when in times(sweep).items() if path in before} == before
    again = clipgen_process(*words, *study, folder=tmp_path)
    assert again.status == 0 and "4 of 4 trials are finished" in again.said and ": begins" not in again.said


def test_the_launcher_of_a_cluster_is_slurm_s(clipgen):
    outcome = clipgen("train", "launcher=slurm", "hydra.launcher.partition=gpu", "--cfg", "hydra")
    assert outcome.status == 0, outcome.error
    launcher = OmegaConf.create(outcome.said).hydra.launcher
    assert launcher._target_.endswith(".SlurmLauncher") and launcher.partition == "gpu"
    assert launcher.array_parallelism == 16 and launcher.gpus_per_node == 1


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["launcher=joblib", "hydra/launcher=submitit_local"])
def test_jobs_run_side_by_side(clipgen_process, words, tmp_path, launcher):
    outcome = clipgen_process(*words, launcher, f"{LR}=1e-3,3e-3,-1", folder=tmp_path)
    assert outcome.status == 1 and "sweep: 2 of 3 jobs done" in outcome.said, outcome.error
    assert f"failed: {LR}=-1: transformer.train.lr=-1.0; take more than 0" in outcome.error
    for name in (f"{LR}=0.001", f"{LR}=0.003"):
        folder = tmp_path / "multirun" / "bars" / name / "transformer"
        assert read_checkpoint(folder / "best.ckpt", "transformer")["clipgen"]["batches"] == 6


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["launcher=local", "launcher=joblib"])
def test_ctrl_c_lets_the_job_save_and_begins_no_other(clipgen_process, words, tmp_path, launcher):
    sweep = tmp_path / "multirun" / "bars"
    more = [launcher, "seed=0,1,2,3", "transformer.train.steps=400", "trainer.val_every=5"]
    command = [sys.executable, "-m", "clipgen.cli.main", *map(str, words), *more]
    with open(tmp_path / "said", "w") as said:
        both = {"stdout": said, "stderr": said}
        run = subprocess.Popen(command, start_new_session=True, cwd=tmp_path, **both)
        while not list(sweep.glob("seed=0/transformer/last.ckpt")):
            assert run.poll() is None and time.sleep(0.02) is None
        os.killpg(run.pid, signal.SIGINT)  # as a terminal does
        status = run.wait(120)
    said = (tmp_path / "said").read_text()
    assert status == 130 and "Traceback" not in said, said[-3000:]
    cut = jobs(sweep)
    for name in cut:
        with lock_of(sweep / name).acquire(timeout=60):
            pass  # joblib may end a worker while its job still saves
    assert "seed=3" not in cut and {job.status for job in read_sweep(sweep).jobs} == {"stopped"}
    batches = read_checkpoint(sweep / "seed=0" / "transformer" / "last.ckpt", "transformer")["clipgen"]["batches"]
    assert 0 < batches < 400
    outcome = clipgen_process(*words, *more, folder=tmp_path)
    assert outcome.status == 0 and "4 of 4 jobs done" in outcome.said, outcome.error[-2000:]
    assert "transformer: continues from" in (sweep / "seed=0" / "job.log").read_text()


@pytest.mark.slow
def test_what_ctrl_c_ended_counts_as_stopped_however_it_ended(tmp_path):
    folder = tmp_path / "job"
    folder.mkdir()
    assert in_a_process(["no_such_verb"], folder) == 2
    before = signal.getsignal(signal.SIGINT)

    def press():
        while signal.getsignal(signal.SIGINT) == before:  # the job is not begun yet
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press).start()
    assert in_a_process(["no_such_verb"], folder) == 130


@pytest.mark.slow
def test_a_job_left_behind_by_a_killed_sweep_is_waited_for(clipgen_process, words, tmp_path):
    sweep = tmp_path / "multirun" / "bars"
    more = ["seed=0,1", "transformer.train.steps=60", "trainer.val_every=5"]
    command = [sys.executable, "-m", "clipgen.cli.main", *map(str, words), *more]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, start_new_session=True, cwd=tmp_path, **quiet) as run:
        while not list(sweep.glob("seed=0/transformer/last.ckpt")):
            assert run.poll() is None and time.sleep(0.01) is None
        run.kill()  # and not its job
    with pytest.raises(Timeout):
        lock_of(sweep / "seed=0").acquire(timeout=0)
    outcome = clipgen_process(*words, *more, folder=tmp_path)
    assert outcome.status == 0, outcome.error
    log = (sweep / "seed=0" / "job.log").read_text()
    assert "transformer: done already" in log and "continues from" not in log


@pytest.mark.slow
def test_runs_side_by_side_make_what_they_share_once(clipgen_process, pictures, tiny, tmp_path):
    words = ["run", "-m", f"images={pictures}", "name=both", *tiny, "prompts=[a red circle]", "launcher=joblib"]
    swept = ["tokenizer.codebook_size=64,128", "transformer.dropout=0,0.1", "metric=clip.score.conditioning"]
    outcome = clipgen_process(*words, *swept, folder=tmp_path)
    assert outcome.status == 0, outcome.error
    sweep = tmp_path / "multirun" / "both"
    made = [path.name.partition("-")[0] for path in (sweep / "shared").iterdir() if not path.name.startswith(".")]
    assert sorted(made) == ["latents", "latents", "shards", "vqgan", "vqgan"]
    found = jobs(sweep)
    assert len(found) == 4 and all(about["status"] == "done" for about in found.values())
    logs = "".join((sweep / name / "job.log").read_text() for name in found)
    assert logs.count("vqgan: done already") == 2 and "this one waits" in logs
    for name in found:
        assert (sweep / name / "model" / "config.json").is_file() and (sweep / name / "report.html").is_file()
    before = times(sweep)
    assert clipgen_process(*words, *swept, folder=tmp_path).status == 0
    assert times(sweep) == before
    html = (sweep / "report.html").read_text()
    assert "higher is better" in html and "clipgen sample model=" in html


@pytest.mark.slow
def test_stage_two_alone_can_be_judged_by_what_it_generates(clipgen_process, words, tmp_path):
    more = ["prompts=[a red circle]", "seed=0,1", "metric=clip.score.conditioning"]
    outcome = clipgen_process(*words, *more, folder=tmp_path)
    assert outcome.status == 0 and "best: clip.score.conditioning" in outcome.said, outcome.error
    folder = tmp_path / "multirun" / "bars" / "seed=0"
    assert (folder / "samples.png").is_file() and json.loads((folder / "metrics.json").read_text())
    shutil.rmtree(folder / "transformer")  # then it is trained and judged anew
    assert clipgen_process(*words, *more, folder=tmp_path).status == 0
