"""The stored study, without any training: jobs return what a function of their words says."""

import math
import sys
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from clipgen.cli.optuna import StudySweeper, search_space
from clipgen.errors import UserError

WORDS = ["seed=0", "lr=tag(log,interval(1e-4,1e-1))", "width=int(interval(1,8))", "norm=a,b"]


class Launcher:
    """Runs jobs until it is killed."""

    def __init__(self, dies_after: int | None = None, fails=()):
        self.left, self.fails, self.ran = dies_after, fails, []

    def launch(self, jobs, initial_job_idx):
        for job in jobs:
            if self.left is not None and len(self.ran) == self.left:
                raise KeyboardInterrupt
            self.ran.append(tuple(job))
        return [SimpleNamespace(return_value=self.score(dict(word.split("=") for word in job))) for job in jobs]

    def score(self, values) -> float:
        return math.nan if values["width"] in self.fails else abs(math.log(float(values["lr"])) + 5)


def sweep(folder, launcher, n_trials=4, metric="val/loss", words=WORDS, n_jobs=1) -> list[tuple[str, ...]]:
    sampler = OmegaConf.create({"_target_": "optuna.samplers.TPESampler", "seed": 0, "n_startup_trials": 2})
    sweeper = StudySweeper(sampler, f"sqlite:///{folder}/study.db", "s", n_trials, n_jobs, OmegaConf.create({}))
    sweeper.config, sweeper.launcher = OmegaConf.create({"metric": metric, "direction": None}), launcher
    try:
        sweeper.sweep(list(words))
    except KeyboardInterrupt:
        assert launcher.left is not None
    return launcher.ran


@pytest.fixture
def whole(tmp_path) -> list[tuple[str, ...]]:
    """The jobs of a study that nothing stopped."""
    (tmp_path / "whole").mkdir()
    return sweep(tmp_path / "whole", Launcher())


def test_a_study_that_was_killed_continues_as_if_it_had_not_been(tmp_path, whole, capsys):
    assert len(set(whole)) == 4 and all(job[0] == "seed=0" for job in whole)
    assert sweep(tmp_path, Launcher(dies_after=2)) == whole[:2]
    assert sweep(tmp_path, Launcher()) == whole[2:], "the third, which was cut off, and the fourth"
    assert "optuna: 2 of 4 trials are finished, 1 were cut off" in capsys.readouterr().out
    assert sweep(tmp_path, Launcher()) == []
    assert len(sweep(tmp_path, Launcher(), n_trials=5)) == 1


def test_a_trial_that_failed_is_replaced_when_the_command_is_given_again(tmp_path, whole):
    bad = dict(word.split("=") for word in whole[1])["width"]
    count = sum(dict(word.split("=") for word in job)["width"] == bad for job in whole)
    assert len(sweep(tmp_path, Launcher(fails={bad}))) == 4
    assert len(sweep(tmp_path, Launcher())) == count


def test_trials_can_be_drawn_several_at_once(tmp_path):
    assert len(set(sweep(tmp_path, Launcher(), n_jobs=3))) == 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"metric": "train/loss"}, "is a study of metric=val/loss, not of train/loss"),
        ({"metric": "val/psnr"}, "is a study to minimize its metric, not to maximize it"),
        ({"words": ["norm=a,b,c"]}, "take another name= for another search"),
        ({"words": ["norm=a"]}, "has nothing to draw from"),
    ],
)
def test_a_study_is_of_one_question(tmp_path, change, said):
    sweep(tmp_path, Launcher(), n_trials=1)
    with pytest.raises(UserError, match=said):
        sweep(tmp_path, Launcher(), n_trials=2, **change)


def test_what_is_typed_wins_over_what_is_saved():
    space, fixed = search_space(["lr=interval(1,2)", "b=1", "lr=0.5", "b=1,2"])
    assert list(space) == ["b"] and fixed == ["lr=0.5"]
    space, _ = search_space(["a=int(interval(1,4))", "b=interval(1,4)", "c=tag(log,int(interval(1,4)))", "d=range(3)"])
    kinds = [(type(each).__name__[:3], getattr(each, "log", None)) for each in space.values()]
    assert kinds == [("Int", False), ("Flo", False), ("Int", True), ("Cat", None)]
    with pytest.raises(UserError, match="lr="):
        search_space(["lr=tag(log,interval(0.0,1.0))"])


def test_where_optuna_is_not_installed_it_is_said_how_to_have_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"hydra/sweeper=optuna: .*optuna.*; pip install 'clipgen\[sweep\]'"):
        sweep(tmp_path, Launcher())
