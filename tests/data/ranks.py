"""One process of a training over ranks: `python ranks.py FOLDER LATENTS PHASE…`, with RANK and WORLD_SIZE set.

Phases are `whole`, `killed` and `continued` from that; what was seen in each goes into FOLDER/rank-N.json. A killing is
an exception in the same batch on all ranks, so that the next phase can follow in this process; with DIES set it is a
SIGKILL.
"""

import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.environments import TorchElasticEnvironment

from clipgen.data.module import LatentData

STEPS, BATCH, KILLED_AT, SAVED_AT = 17, 8, 6, 5  # batches of 8 in 30 samples: 3 an epoch, 5 is inside one


class Model(pl.LightningModule):
    def __init__(self, stop_at: int | None = None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.batches, self.stop_at, self.seen = 0, stop_at, []

    def training_step(self, batch, batch_idx):
        if self.batches == self.stop_at:
            if "DIES" in os.environ:
                os.kill(os.getpid(), signal.SIGKILL)
            raise KeyboardInterrupt
        self.seen.append(batch["tokens"][:, :2].tolist())  # which samples, and which of their crops
        self.batches += 1
        return (self.weight - batch["clip"].mean()).square().mean()

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", batch["clip"].mean(), sync_dist=True)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

    def on_save_checkpoint(self, checkpoint):
        checkpoint["batches"] = self.batches

    def on_load_checkpoint(self, checkpoint):
        self.batches = checkpoint["batches"]


def fit(model: Model, latents: str, folder: Path, num_workers: int, checkpoint: Path | None = None) -> Model:
    world = int(os.environ.get("WORLD_SIZE", 1))
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=world,
        strategy=pl.strategies.DDPStrategy(process_group_backend="gloo") if world > 1 else "auto",
        plugins=[TorchElasticEnvironment()] if world > 1 else [],  # Lightning's own forgets the ranks after one fit
        callbacks=[ModelCheckpoint(folder, "{step}", save_top_k=-1, every_n_train_steps=SAVED_AT)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        val_check_interval=6,
    )
    data = LatentData(latents, BATCH, STEPS, seed=3, num_workers=num_workers)
    trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return model


def main(folder: Path, latents: str, phases: list[str]) -> None:
    torch.set_num_threads(1)
    found: dict[str, dict] = {phase: {} for phase in phases}
    for num_workers in (0, 2):
        own = folder / f"{num_workers}-workers"
        saved = folder / "0-workers" / "killed" / f"step={SAVED_AT}.ckpt"
        for phase in phases:
            model = Model(KILLED_AT if phase == "killed" else None)
            with suppress(KeyboardInterrupt, SystemExit):
                fit(model, latents, own / phase, num_workers, saved if phase == "continued" else None)
            found[phase][num_workers] = {"seen": model.seen, "weight": model.weight.item()}
    (folder / f"rank-{os.environ.get('RANK', 0)}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
