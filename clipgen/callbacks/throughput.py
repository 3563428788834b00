"""How fast it goes: images a second, logged."""

import time

import pytorch_lightning as pl


class Throughput(pl.Callback):
    """Logs `images_per_second` over the last `every` batches: of their steps, without fetching them or validation."""

    def __init__(self, batch_size: int, every: int = 50):
        self.batch_size, self.every = batch_size, every
        self.batches, self.seconds, self.began = 0, 0.0, None

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        self.began = time.perf_counter()

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        self.seconds += time.perf_counter() - self.began
        self.batches += 1
        if self.batches == self.every:
            module.log("images_per_second", self.every * self.batch_size / self.seconds)
            self.batches, self.seconds = 0, 0.0
