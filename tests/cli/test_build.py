"""The log of a training that goes on after it was cut off."""

import csv

from clipgen.cli.build import AppendingCSVLogger


def test_a_row_that_a_full_disk_cut_is_left_out(tmp_path):
    folder = tmp_path / "vqgan"
    folder.mkdir()
    (folder / "metrics.csv").write_text("lr,step,loss\n1e-3,4,2.5\n1e-3,9,1.5\n1e-3")
    AppendingCSVLogger(folder, 9)
    with open(folder / "metrics.csv", newline="") as file:
        assert list(csv.DictReader(file)) == [{"lr": "1e-3", "step": "4", "loss": "2.5"}]
