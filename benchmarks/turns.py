"""A training of ours, and on each of its batches a step of each peer: what the machine does meanwhile hits all."""

import statistics
import time
from collections.abc import Callable

import pytorch_lightning as pl
import torch
from torch import Tensor

WARM_UP, ROUNDS = 2, 5

Step = Callable[[dict[str, Tensor]], None]


def waiting(device: torch.device) -> Callable[[], None]:
    """Returns when the device has done what it was given."""
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None


class InTurn(pl.Callback):
    """Times each batch of a training, and after it a step of each peer on the same batch."""

    def __init__(self, peers: dict[str, Step], wait: Callable[[], None]):
        self.peers, self.wait = peers, wait
        self.times: dict[str, list[float]] = {name: [] for name in ("ours", *peers)}

    def on_train_batch_start(self, trainer, module, batch, number) -> None:
        self.wait()
        self.began = time.perf_counter()

    def on_train_batch_end(self, trainer, module, outputs, batch, number) -> None:
        self._note("ours")
        for name, step in self.peers.items():
            self.began = time.perf_counter()
            step(batch)
            self._note(name)

    def _note(self, name: str) -> None:
        self.wait()
        self.times[name].append(time.perf_counter() - self.began)

    def median(self, name: str) -> float:
        return statistics.median(self.times[name][WARM_UP:])
