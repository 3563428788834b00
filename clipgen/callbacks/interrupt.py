"""Ctrl-C between two batches: the checkpoint is whole, so the same command continues exactly there."""

import signal
from pathlib import Path

import pytorch_lightning as pl

from clipgen.ranks import any_rank


class Interrupted(Exception):
    """The user stopped the training; what was trained is saved."""

    def __init__(self, batches: int, steps: int):
        super().__init__(f"stopped after batch {batches} of {steps}")


class SaveOnInterrupt(pl.Callback):
    """The first SIGINT or SIGTERM saves `path` after the batch at hand and raises Interrupted; a second one kills.

    With `every` it is saved every so many batches too, for a training without validation, after which it is saved else.
    """

    def __init__(self, path: Path, every: int | None = None):
        self.path, self.every = path, every
        self.asked = False
        self.handlers = {}

    def on_train_start(self, trainer, module) -> None:  # not earlier: Lightning keeps the handlers that it finds
        for number in (signal.SIGINT, signal.SIGTERM):
            self.handlers[number] = signal.signal(number, self._ask)

    def _ask(self, number, frame) -> None:
        if self.asked:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.asked = True

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        if any_rank(self.asked):  # all stop after the same batch
            trainer.save_checkpoint(self.path, weights_only=False)
            raise Interrupted(module.batches, module.steps)
        if self.every and module.batches % self.every == 0:
            trainer.save_checkpoint(self.path, weights_only=False)

    def on_train_end(self, trainer, module) -> None:
        self._give_back()

    def on_exception(self, trainer, module, exception) -> None:
        self._give_back()

    def _give_back(self) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.handlers = {}
