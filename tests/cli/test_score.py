import pytest

from clipgen.cli.score import direction_of, score_of
from clipgen.errors import UserError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "transformer").mkdir()
    rows = "step,val/loss,val/psnr,lr\n0,3.0,20,0.1\n1,2.5,21,\n2,2.75,,0.05\n"
    (tmp_path / "transformer" / "metrics.csv").write_text(rows)
    (tmp_path / "metrics.json").write_text('{"judge.all": 0.5, "clip.score": null}')
    return tmp_path


@pytest.mark.parametrize(
    ("metric", "value"), [("val/loss", 2.5), ("val/psnr", 21.0), ("judge.all", 0.5)]
)  # the least loss, the last of the others
def test_a_job_is_judged_by_a_column_or_a_figure(folder, metric, value):
    assert score_of(folder, "transformer", metric) == value


@pytest.mark.parametrize("stage", ["vqgan", "clip"])
def test_a_stage_whose_last_weights_are_used_is_judged_by_them(folder, stage):
    (folder / "transformer").rename(folder / stage)
    assert score_of(folder, stage, "val/loss") == 2.75


def test_a_metric_that_is_not_there_is_named_with_its_neighbour(folder):
    with pytest.raises(
        UserError, match=r"metric=judge.al is not among the figures of .*metrics.json; do you mean judge.all"
    ):
        score_of(folder, "transformer", "judge.al")
    for metric in ("clip.score", "val/nothing"):
        with pytest.raises(UserError, match=f"metric={metric} is not among"):
            score_of(folder, "transformer", metric)


def test_the_name_says_which_way_is_better():
    ways = {name: direction_of(name, None) for name in ("val/loss", "val/psnr", "judge.held_out.shape", "judge.none")}
    assert list(ways.values()) == ["minimize", "maximize", "maximize", "minimize"]
    assert direction_of("val/loss", "maximize") == "maximize"
    for metric, given in (("spread.x", None), ("nearest.rms", None), ("val/loss", "up")):
        with pytest.raises(UserError, match="minimize"):
            direction_of(metric, given)
