"""The log of a training that goes on after it was cut off."""

import csv

import pytest
from pytorch_lightning.loggers.csv_logs import ExperimentWriter

from clipgen.cli.build import AppendingCSVLogger


def test_a_row_that_a_full_disk_cut_is_left_out(tmp_path):
    folder = tmp_path / "vqgan"
    folder.mkdir()
    (folder / "metrics.csv").write_text("lr,step,loss\n1e-3,4,2.5\n1e-3,9,1.5\n1e-3")
    AppendingCSVLogger(folder, 9)
    with open(folder / "metrics.csv", newline="") as file:
        assert list(csv.DictReader(file)) == [{"lr": "1e-3", "step": "4", "loss": "2.5"}]


def test_a_kill_between_deleting_and_writing_again_loses_no_row(tmp_path, monkeypatch):
    folder = tmp_path / "vqgan"
    folder.mkdir()
    (folder / "metrics.csv").write_text("lr,step,val/loss\n1e-3,4,2.5\n1e-3,9,1.5\n")
    with monkeypatch.context() as patch:
        patch.setattr(ExperimentWriter, "save", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            AppendingCSVLogger(folder, 20)
    assert not (folder / "metrics.csv").exists()
    AppendingCSVLogger(folder, 20)
    with open(folder / "metrics.csv", newline="") as file:
        assert [row["val/loss"] for row in csv.DictReader(file)] == ["2.5", "1.5"]
    assert [path.name for path in folder.iterdir()] == ["metrics.csv"]
