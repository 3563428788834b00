"""A command of a comparison is run when there is a reason to, and not again."""

import json
import os

import pytest

from clipgen.cli import steps
from clipgen.cli.steps import Failed, Step, Steps


class Process:
    """What a started command is, to the one who waits for it."""

    def __init__(self, status: int = 0):
        self.status = status

    def wait(self) -> int:
        return self.status


@pytest.fixture
def made(tmp_path):
    return tmp_path / "latents" / "manifest.json"


@pytest.fixture
def started(made, monkeypatch):
    """Words of what was started; each makes its file."""
    words = []

    def start(given):
        words.append(tuple(given))
        made.parent.mkdir(exist_ok=True)
        made.write_text("{}", encoding="utf-8")
        return Process()

    monkeypatch.setattr(steps, "start", start)
    return words


def test_what_is_made_is_not_made_again_by_another_process_either(tmp_path, made, started):
    step = Step(("encode", "name=a"), made)
    Steps(tmp_path / "steps.json").run(step)
    Steps(tmp_path / "steps.json").run(step)
    assert started == [("encode", "name=a")]


def test_other_words_another_input_or_a_lost_product_run_it_again(tmp_path, made, started):
    source = tmp_path / "last.ckpt"
    source.write_text("one", encoding="utf-8")
    kept, step = Steps(tmp_path / "steps.json"), Step(("encode",), made, (source,))
    kept.run(step)
    kept.run(Step(("encode", "encode.crops=2"), made, (source,)))
    assert len(started) == 2
    os.utime(source, ns=(1, 1))
    kept.run(Step(("encode", "encode.crops=2"), made, (source,)))
    assert len(started) == 3
    made.unlink()
    kept.run(Step(("encode", "encode.crops=2"), made, (source,)))
    assert len(started) == 4


def test_a_stage_counts_when_it_says_that_it_is_done(tmp_path, started):
    stage = tmp_path / "transformer" / "stage.json"
    step = Step(("train",), stage)
    kept = Steps(tmp_path / "steps.json")
    stage.parent.mkdir()
    for status, runs in (("done", 1), ("done", 1), ("running", 2)):
        stage.write_text(json.dumps({"status": status}), encoding="utf-8")
        kept.run(step)
        assert len(started) == runs


def test_a_command_that_fails_is_told_and_run_again(tmp_path, made, monkeypatch):
    statuses = [2, 0]
    monkeypatch.setattr(steps, "start", lambda words: Process(statuses.pop(0)))
    made.parent.mkdir()
    made.write_text("{}", encoding="utf-8")
    kept, step = Steps(tmp_path / "steps.json"), Step(("train", "arm=paired"), made)
    with pytest.raises(Failed, match="`clipgen train arm=paired` ended with status 2"):
        kept.run(step)
    kept.run(step)
    assert not statuses


@pytest.mark.parametrize("status", [130, -2, -15])
def test_ctrl_c_ends_everything(status, tmp_path, made, monkeypatch):
    monkeypatch.setattr(steps, "start", lambda words: Process(status))
    with pytest.raises(SystemExit) as ended:
        Steps(tmp_path / "steps.json").run(Step(("train",), made))
    assert ended.value.code == 130
