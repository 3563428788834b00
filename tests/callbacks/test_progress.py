"""One bar a stage, under its name, with its loss."""

import pytest

from clipgen.callbacks.progress import Progress


@pytest.fixture
def shown(make_trainer, counting, capsys):
    make_trainer(Progress("vqgan"), enable_progress_bar=True, val_check_interval=6, logger=False).fit(counting(12))
    captured = capsys.readouterr()
    return captured.out + captured.err


def test_the_bar_has_the_name_of_the_stage_and_its_loss(shown):
    last = shown.rstrip().rpartition("\r")[2]
    assert last.startswith("training vqgan: 100%") and "12/12" in last
    assert "loss=" in last and "val/loss=" in last and "it/s" in last


def test_validation_has_no_bar_of_its_own(shown):
    assert "Validation" not in shown and "Sanity" not in shown and "v_num" not in shown
    assert len([line for line in shown.split("\n") if line.strip()]) <= 2
