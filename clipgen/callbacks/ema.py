"""A moving average of weights, around which the trained ones waver: it is validated, shown, exported, encoded with."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import pytorch_lightning as pl
import torch
from torch import Tensor


class EMA(pl.Callback):
    """Averages the parameters of the module's attribute `name`, in float32, after batch n by min(decay, (1+n)/(10+n)).

    Buffers are not averaged: those of the live network stay in place. `drawn` says which rows of which parameters the
    last batch drew anew; their average starts again from there, as one of an old code and a new one means nothing.
    A checkpoint holds the averages as `ema`, {parameter: tensor}, and `clipgen.checkpoint.submodule` prefers them.
    """

    def __init__(self, name: str, decay: float, drawn: Callable[[], Mapping[str, Tensor]] = dict):
        self.name, self.decay, self.drawn = name, decay, drawn
        self.live: dict[str, Tensor] = {}
        self.average: dict[str, Tensor] = {}
        self.saved: Mapping[str, Tensor] = {}
        self.swapped = False

    def on_load_checkpoint(self, trainer, module, checkpoint) -> None:
        self.saved = checkpoint["ema"]

    @torch.no_grad()
    def on_fit_start(self, trainer, module) -> None:
        network = getattr(module, self.name)
        self.live = {f"{self.name}.{name}": parameter for name, parameter in network.named_parameters()}
        self.average = {
            name: torch.empty_like(parameter, dtype=torch.float32).copy_(self.saved.get(name, parameter))
            for name, parameter in self.live.items()
        }
        self.saved = {}

    @torch.no_grad()
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        decay = min(self.decay, (1 + module.batches) / (10 + module.batches))
        live = [parameter.float() for parameter in self.live.values()]
        torch._foreach_lerp_(list(self.average.values()), live, 1 - decay)
        for name, rows in self.drawn().items():
            if (full := f"{self.name}.{name}") in self.average:
                self.average[full][rows] = self.live[full][rows].float()

    @contextmanager
    def weights(self) -> Iterator[None]:
        """Within, the network has the averages."""
        self._swap(True)
        try:
            yield
        finally:
            self._swap(False)

    def on_validation_start(self, trainer, module) -> None:
        self._swap(True)

    def on_validation_end(self, trainer, module) -> None:  # before the checkpoint: Lightning moves those to the end
        self._swap(False)

    def on_exception(self, trainer, module, exception) -> None:
        self._swap(False)

    def on_save_checkpoint(self, trainer, module, checkpoint) -> None:
        assert not self.swapped
        checkpoint["ema"] = self.average

    @torch.no_grad()
    def _swap(self, wanted: bool) -> None:
        """In place, one tensor at a time; exact, as the parameters of a training are float32 too."""
        if wanted == self.swapped:
            return
        self.swapped = wanted
        for name, average in self.average.items():
            held = self.live[name].clone()
            self.live[name].copy_(average)
            average.copy_(held)
