"""A training whose numbers are no longer finite ends, before such weights are saved."""

import math
from pathlib import Path

import pytorch_lightning as pl
import torch

from clipgen.errors import UserError

READ_EVERY = 10  # batches, since reading a number makes a GPU wait


class Finite(pl.Callback):
    """Reads the loss of every tenth batch, and the weights that are about to be saved; a UserError where one is not.

    `rates` are the settings to lower, as one would name them. A loss in float16 may overflow, and its batch be skipped.
    """

    def __init__(self, folder: Path, rates: str):
        self.folder, self.rates = folder, rates

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        due = module.batches % READ_EVERY == 0 or module.batches == module.steps
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        if due and not scaled and not math.isfinite(trainer.callback_metrics["loss"]):  # a mean over the ranks
            raise self.not_finite(module.batches, "train/loss")

    def on_save_checkpoint(self, trainer, module, checkpoint) -> None:
        weights = checkpoint["state_dict"].items()
        if bad := next((name for name, tensor in weights if not torch.isfinite(tensor).all()), None):
            raise self.not_finite(module.batches, f"weights {bad}")

    def not_finite(self, batch: int, what: str) -> UserError:
        last = self.folder / "last.ckpt"
        before = f"{last} is from before it" if last.exists() else "no checkpoint was saved before it"
        return UserError(
            f"{self.folder.name}: at batch {batch} {what} is NaN or infinite, and the training stopped; lower "
            f"{self.rates}, or take trainer.precision=32-true; {before}"
        )
