"""Pictures of the training as it goes: a PNG every so many batches, the same examples each time."""

from collections.abc import Callable
from pathlib import Path

import pytorch_lightning as pl
import torch
from PIL import Image

from clipgen.data.atomic import replacing


class ImageGrid(pl.Callback):
    """Saves what `draw()` returns as `FOLDER/000200.png`, and as `latest.png`, every `every` batches and at the end."""

    def __init__(self, folder: Path, draw: Callable[[], Image.Image], every: int):
        self.folder, self.draw, self.every = folder, draw, every

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        if trainer.is_global_zero and (module.batches % self.every == 0 or module.batches == module.steps):
            self.save(module)

    @torch.no_grad()
    def save(self, module: pl.LightningModule) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        was_training = module.training
        module.eval()
        try:
            picture = self.draw()
        finally:
            module.train(was_training)
        for name in (f"{module.batches:06d}.png", "latest.png"):
            with replacing(self.folder / name) as path:
                picture.save(path, format="PNG")
