"""A sweep over ways of training ends with a table, from one command that continues where it stopped."""

import json

import pytest

from clipgen.cli.ablate import Ablation, covers, found_jobs
from clipgen.errors import UserError
from clipgen.shapes import prompts as world_prompts

EXPERIMENT = """# @package _global_
name: few
hydra:
  sweep: {dir: sweep}
  callbacks:
    ablation:
      _target_: clipgen.cli.ablate.Ablation
      name: few
      bridges: [mean, none, knn]
      fidelities: [0.9, 1.0]
      guidance_scales: [1.0, 2.0]
      first: [[draw, out=pictures, n=0]]
"""


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """Words that name it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "few.yaml").write_text(EXPERIMENT, encoding="utf-8")
    return ["train", "-m", "--config-dir", tmp_path / "conf", "experiment=few", "stage=transformer"]


@pytest.fixture
def few(monkeypatch):
    """Some prompts instead of hundreds."""
    development, test = world_prompts.ablation_prompts()
    monkeypatch.setattr(world_prompts, "ablation_prompts", lambda: (development[:4], [*test[:6], *test[-6:]]))


def test_one_command_trains_judges_and_continues(clipgen, tiny, run_folder, tokenizer, few, experiment, tmp_path):
    (tmp_path / "docs" / "results").mkdir(parents=True)
    words = [
        *experiment, *tiny, f"shards={run_folder / 'shards'}", f"latents={run_folder / 'latents'}",
        tokenizer, "recipe=gap/default,gap/no_noise", "seed=0,1",
    ]  # fmt: skip
    outcome = clipgen(*words)
    assert outcome.status == 0, outcome.error
    results = json.loads((tmp_path / "sweep" / "few.json").read_text())
    names = {"default", "image", "bridge=mean", "bridge=none", "bridge=knn", "guidance=1", "guidance=2", "no_noise"}
    names |= {f"no_noise, bridge={each}" for each in ("mean", "none", "knn")}
    assert set(results["rows"]) == names and results["seeds"] == {"default": [0, 1], "no_noise": [0, 1]}
    assert results["rows"]["default"]["judge.all"]["n"] == 2 and "| default |" in outcome.said
    assert results["command"].startswith("clipgen train -m experiment=few stage=transformer tokenizer=small_f4")
    assert (tmp_path / "sweep" / "few.png").stat().st_size > 1000
    assert not list((tmp_path / "docs" / "results").iterdir()), "the published record is of the experiment as it is"
    job = json.loads(next((tmp_path / "sweep").glob("*/job.json")).read_text())
    assert job["command"][:3] == ["train", "--config-dir", str(tmp_path / "conf")], (
        "typed elsewhere it finds the experiment"
    )
    kept = sorted((tmp_path / "sweep").glob("*/judged.json"))
    assert len(kept) == 4
    before = {path: path.stat().st_mtime_ns for path in (*kept, *(tmp_path / "sweep").glob("*/transformer/*.ckpt"))}
    assert clipgen(*words).status == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before, "what was trained and judged is not done again"


def test_a_record_is_replaced_by_one_that_has_all_of_its_trainings(tmp_path):
    record = tmp_path / "few.json"
    assert covers({"default": [0]}, record)
    record.write_text(json.dumps({"seeds": {"default": [0, 1], "no_noise": [0]}}), encoding="utf-8")
    assert covers({"default": [0, 1, 2], "no_noise": [0], "aux": [0]}, record)
    assert not covers({"default": [0], "no_noise": [0]}, record)
    assert not covers({"default": [0, 1, 2]}, record)


def test_a_defect_in_judging_is_no_success(clipgen, tiny, run_folder, tokenizer, few, experiment, monkeypatch):
    monkeypatch.setattr(Ablation, "judge_all", lambda *_: 1 / 0)
    data = (f"shards={run_folder / 'shards'}", f"latents={run_folder / 'latents'}", tokenizer)
    outcome = clipgen(*experiment, *tiny, *data, "recipe=gap/default,gap/no_noise")
    assert outcome.status == 1 and "ZeroDivisionError" in outcome.error


def test_data_that_cannot_be_made_first_ends_the_sweep(clipgen, tiny, experiment, tmp_path):
    outcome = clipgen(*experiment, *tiny, "latents=nowhere", "recipe=gap/default,gap/no_noise")
    assert outcome.status == 2 and "first: clipgen draw out=pictures n=0" in outcome.said
    assert not list(tmp_path.glob("sweep/*/transformer"))


@pytest.mark.parametrize(
    ("swept", "said"),
    [("seed=0", "give two or more"), ("recipe=gap_default,transformer.width=64", "swept transformer.width too")],
)
def test_a_sweep_of_something_else_is_no_ablation(swept, said, tmp_path):
    stage = tmp_path / swept / "transformer" / "stage.json"
    stage.parent.mkdir(parents=True)
    stage.write_text('{"status": "done"}', encoding="utf-8")
    with pytest.raises(UserError, match=said):
        found_jobs(tmp_path)
