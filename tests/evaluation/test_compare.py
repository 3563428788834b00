"""A comparison is fair by its arithmetic: budgets, sizes, trials and bars."""

from dataclasses import replace

import numpy as np
import pytest

from clipgen.errors import UserError
from clipgen.evaluation.compare import Cost, bars, best, check_sizes, stacked, steps_of, trials, variants_of
from clipgen.evaluation.flops import Size

SIZE = Size(2_000_000, {"head": 12_000}, 40_000, 5, 192)
OURS = Cost(SIZE, 1e9, 32, 50)


def test_an_arm_is_compared_with_each_share_of_the_captions():
    found = variants_of({"clipgen": [0.0], "paired": [1.0, 0.1, 0.01]})
    assert [each.name for each in found] == ["clipgen", "paired", "paired_10pct", "paired_1pct"]
    assert {each.arm for each in found[1:]} == {"paired"} and found[3].captions_share == 0.01


def test_a_dearer_batch_means_fewer_of_them_and_as_many_pictures_another_training():
    costs = {"clipgen": OURS, "paired": replace(OURS, flops=1.5e9), "wide": replace(OURS, batch=64)}
    steps = steps_of(costs, 1200, 0.02)
    assert steps["clipgen"] == {"flops": 1200, "images": 1200}
    assert steps["paired"] == {"flops": 800, "images": 1200}
    assert steps["wide"] == {"flops": 1200, "images": 600}


def test_one_training_serves_both_budgets_where_they_are_as_good_as_equal():
    close, apart = replace(OURS, flops=0.985e9), replace(OURS, flops=0.96e9)
    steps = steps_of({"clipgen": OURS, "close": close, "apart": apart}, 1200, 0.02)
    assert steps["close"] == {"flops": 1218, "images": 1218} and steps["apart"] == {"flops": 1250, "images": 1200}


def test_a_budget_that_ends_before_an_arm_has_warmed_up_is_refused_with_one_that_does_not():
    costs = {"clipgen": OURS, "paired": replace(OURS, flops=3e9)}
    with pytest.raises(UserError, match=r"arm paired: its 40 batches are .*take compare.steps=\d+") as told:
        steps_of(costs, 120, 0.02)
    enough = int(str(told.value).split("take compare.steps=")[1].split(",")[0])
    assert steps_of(costs, enough, 0.02)["paired"]["flops"] > 50


def test_an_arm_of_another_size_is_refused_by_name():
    costs = {"clipgen": OURS, "paired": replace(OURS, size=replace(SIZE, blocks=2_030_000))}
    assert check_sizes(costs, 0.02)["paired"] == pytest.approx(1.015)
    with pytest.raises(UserError, match=r"arm paired has 2,030,000 parameters .*\+1\.5%"):
        check_sizes(costs, 0.01)


def test_every_arm_gets_as_many_trials_the_first_being_its_own_setting():
    first = {"temperature": 0.6, "top_k": 0}
    choices = {"temperature": [0.6, 0.8, 1.0], "top_k": [0, 32]}
    found = trials("paired", first, choices, 4)
    assert found[0] == first and len(found) == len({tuple(each.items()) for each in found}) == 4
    assert found == trials("paired", first, choices, 4) and len(trials("paired", first, choices, 6)) == 6
    with pytest.raises(UserError, match=r"compare.trials=7, .* of arm paired are 6 ways"):
        trials("paired", first, choices, 7)
    outside = {"temperature": 0.7, "top_k": 0}
    assert len(trials("paired", outside, choices, 7)) == 7


def test_the_best_is_the_first_of_equals():
    assert best(["a", "b", "c"], {"a": 1, "b": 2, "c": 2}.get) == "b"


def test_prompts_that_do_not_ask_are_left_out():
    values = [{"judge.size": np.array([1.0, np.nan, 0.5])}, {"judge.size": np.array([0.5, np.nan, 0.0])}]
    assert stacked(values, "judge.size").tolist() == [[1.0, 0.5], [0.5, 0.0]]


def figures(**arms: float) -> dict:
    names = ("judge.foreground", "judge.background", "judge.shape")
    return {arm: {name: {"mean": mean} for name in names} for arm, mean in arms.items()}


def test_bars_are_reported_as_they_are():
    difference = {"a": "clipgen", "b": "plain_swap", "metric": "judge.all", "low": 0.01}
    found = bars(figures(clipgen=0.93, paired=0.96), [difference])
    assert [bar["met"] for bar in found] == [True] * 3 + [False] * 3 + [True]
    assert found[3]["value"] == pytest.approx(0.93 / 0.96, abs=1e-5) and found[3]["limit"] == 0.97
    assert bars(figures(clipgen=0.95, paired=0.94), [difference | {"low": -0.01}])[-1]["met"] is False


def test_a_bar_of_an_arm_that_is_not_there_is_open():
    assert {bar["met"] for bar in bars(figures(clipgen=0.9), [])} == {None}
