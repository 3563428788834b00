"""The log of a training that goes on after it was cut off, and settings on their way to what takes them."""

import csv
from dataclasses import fields
from inspect import signature

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers.csv_logs import ExperimentWriter

from clipgen import config
from clipgen.cli import build
from clipgen.cli.build import AppendingCSVLogger, MovableCheckpoint
from clipgen.tokenizer.module import VQGANModule
from clipgen.tokenizer.vqgan import VQGAN
from clipgen.transformer.model import Transformer
from clipgen.transformer.module import TokenModule, TransformerModule


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


def test_in_a_folder_that_moved_only_what_is_better_becomes_the_best(tmp_path):
    before, now = (MovableCheckpoint(tmp_path / name, "best", monitor="val/loss") for name in ("before", "now"))
    plain = ModelCheckpoint(tmp_path / "before", "best", monitor="val/loss")
    assert before.state_key == plain.state_key  # as in checkpoints of before
    path = str(tmp_path / "before" / "best.ckpt")
    before.best_k_models, before.best_model_path = {path: torch.tensor(1.0)}, path
    before.kth_best_model_path, before.kth_value, before.best_model_score = path, torch.tensor(1.0), torch.tensor(1.0)
    now.load_state_dict(before.state_dict())
    assert now.best_model_path == now.kth_best_model_path == str(tmp_path / "now" / "best.ckpt")
    assert now.best_model_score == 1.0 and [*now.best_k_models] == [now.best_model_path]
    better = [now.check_monitor_top_k(Alone, torch.tensor(loss)) for loss in (1.5, 0.5)]
    assert better == [False, True]


class Alone:
    """What the checkpoint asks of a trainer."""

    class strategy:
        @staticmethod
        def reduce_boolean_decision(decision, all=True):
            return decision


@pytest.mark.parametrize(
    ("keys", "section", "kinds", "otherwise"),
    [
        (build.VQGAN_KEYS, config.Tokenizer, [VQGAN], set()),
        (build.VQGAN_TRAINING_KEYS, config.VQGANTraining, [VQGANModule], {"perceptual", "gan_start"}),
        (build.TRANSFORMER_KEYS, config.TransformerModel, [Transformer], set()),
        (build.TOKEN_TRAINING_KEYS, config.TransformerTraining, [TokenModule], set()),
        (build.TRANSFORMER_TRAINING_KEYS, config.TransformerTraining, [TokenModule, TransformerModule], set()),
    ],
)
def test_every_setting_that_a_network_or_its_training_takes_is_handed_on(keys, section, kinds, otherwise):
    """One that was forgotten would be without effect, and nobody would be told."""
    taken = set().union(*(signature(kind).parameters for kind in kinds))
    assert set(keys) | otherwise == taken & {field.name for field in fields(section)}
