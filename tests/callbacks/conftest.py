"""A module that counts its batches as ours do, and trains in no time."""

from collections.abc import Callable

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader


class Counting(pl.LightningModule):
    """`steps` batches of 4 numbers; `inside(batches)` is called in each, before it counts."""

    def __init__(self, steps: int, inside: Callable[[int], None] | None = None):
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.steps, self.inside, self.batches = steps, inside, 0

    def training_step(self, batch, _):
        if self.inside:
            self.inside(self.batches)
        loss = (self.weight - batch).square().mean()
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.batches += 1
        self.log("loss", loss, prog_bar=True)

    def validation_step(self, batch, _):
        self.log("val/loss", (self.weight - batch).square().mean(), prog_bar=True)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

    def train_dataloader(self):
        return DataLoader(torch.arange(4.0 * self.steps), batch_size=4)

    def val_dataloader(self):
        return DataLoader(torch.arange(8.0), batch_size=4)

    def on_save_checkpoint(self, checkpoint):
        checkpoint["batches"] = self.batches

    def on_load_checkpoint(self, checkpoint):
        self.batches = checkpoint["batches"]


@pytest.fixture(scope="session")
def counting() -> type[Counting]:
    return Counting
