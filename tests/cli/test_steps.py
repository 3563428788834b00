"""A command of a comparison is run when there is a reason to, and not again."""

import json
import os
import sys

import pytest

from clipgen.cli import steps
from clipgen.cli.steps import Failed, Step, Steps


class Process:
    """What a started command is, to the one who waits for it."""

    def __init__(self, status: int = 0):
        self.returncode = status

    def poll(self) -> int:
        return self.returncode


@pytest.fixture
def made(tmp_path):
    return tmp_path / "latents" / "manifest.json"


@pytest.fixture
def started(made, monkeypatch):
    """Words of what was started; each makes its file."""
    words = []

    def start(given, log):
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
    monkeypatch.setattr(steps, "start", lambda words, log: Process(statuses.pop(0)))
    made.parent.mkdir()
    made.write_text("{}", encoding="utf-8")
    kept, step = Steps(tmp_path / "steps.json"), Step(("train", "arm=paired"), made)
    with pytest.raises(Failed, match="`clipgen train arm=paired` ended with status 2"):
        kept.run(step)
    kept.run(step)
    assert not statuses


@pytest.mark.parametrize("status", [130, -2, -15])
def test_ctrl_c_ends_everything(status, tmp_path, made, monkeypatch):
    monkeypatch.setattr(steps, "start", lambda words, log: Process(status))
    with pytest.raises(SystemExit) as ended:
        Steps(tmp_path / "steps.json").run(Step(("train",), made))
    assert ended.value.code == 130


def script(monkeypatch, line: str) -> None:
    """A line of Python in the place of clipgen, with its words."""
    popen = steps.subprocess.Popen

    def started(command, **more):
        return popen([sys.executable, "-c", line, *command[3:]], **more)

    monkeypatch.setattr(steps.subprocess, "Popen", started)


def test_two_run_at_once_and_what_they_say_is_in_a_file_of_each(tmp_path, monkeypatch, capsys):
    meet = """
import pathlib, sys, time
own, other, made = map(pathlib.Path, sys.argv[1:])
own.touch()
end = time.monotonic() + 20
while not other.exists() and time.monotonic() < end: time.sleep(0.05)
print("clipgen: error: it is alone" if not other.exists() else "they met")
made.parent.mkdir(parents=True); made.write_text("{}")
"""
    script(monkeypatch, meet)
    a, b = tmp_path / "a", tmp_path / "b"
    made = [tmp_path / name / "latents" / "manifest.json" for name in ("one", "two")]
    both = [Step((str(a), str(b), str(made[0])), made[0]), Step((str(b), str(a), str(made[1])), made[1])]
    assert not Steps(tmp_path / "steps.json").run_all(both, 2)
    assert [(path.parents[1] / "job.log").read_text() for path in made] == ["they met\n", "they met\n"]
    said = capsys.readouterr().out
    assert f"{made[0].parents[1] / 'job.log'} tells more" in said and "they met" not in said
    assert not Steps(tmp_path / "steps.json").run_all(both, 2) and not capsys.readouterr().out


def test_one_that_fails_among_several_is_told_by_its_own_words_and_the_others_run(tmp_path, monkeypatch):
    script(monkeypatch, "import sys; print('clipgen: error: no room'); sys.exit(2 * (sys.argv[1] == 'bad'))")
    bad, *others = (Step((word,), tmp_path / word / "vqgan" / "made.json") for word in ("bad", "good", "fine"))
    for each in others:
        each.made.parent.mkdir(parents=True)
        each.made.write_text("{}")
    failed = Steps(tmp_path / "steps.json").run_all([bad, *others], 2)
    assert list(failed) == [bad] and str(failed[bad]) == "`clipgen bad` ended with status 2: no room"
    assert all((each.made.parents[1] / "job.log").is_file() for each in others)


def test_ctrl_c_among_several_lets_the_others_end_and_begins_no_more(tmp_path, monkeypatch):
    line = "import pathlib, sys, time; pathlib.Path(sys.argv[1]).touch(); sys.exit(130 * (sys.argv[1][-1] == '0'))"
    script(monkeypatch, line)
    every = [Step((str(tmp_path / f"began{i}"),), tmp_path / str(i) / "vqgan" / "made.json") for i in range(9)]
    with pytest.raises(SystemExit) as ended:
        Steps(tmp_path / "steps.json").run_all(every, 2)
    assert ended.value.code == 130 and 2 <= len(list(tmp_path.glob("began*"))) < 9
