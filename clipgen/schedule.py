"""What follows from the number of batches trained: the learning rate, and the random numbers of the next batch."""

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch.optim import Optimizer


def warmup_linear(batch: int, steps: int, warmup: int, final: float = 0.02) -> float:
    """Factor that rises linearly over `warmup` batches and then falls linearly to `final` at batch `steps`.

    With `final` = 1 it stays.
    """
    rise = min(1.0, (batch + 1) / max(1, warmup))
    fall = 1 - (1 - final) * max(0, batch - warmup) / max(1, steps - warmup)
    return min(rise, max(final, fall))


def warmup_cosine(batch: int, steps: int, warmup: int, final: float = 0.02) -> float:
    """As `warmup_linear`, but it falls along half a cosine."""
    rise = min(1.0, (batch + 1) / max(1, warmup))
    done = min(1.0, max(0, batch - warmup) / max(1, steps - warmup))
    return min(rise, final + (1 - final) * (1 + math.cos(math.pi * done)) / 2)


SCHEDULES = {"linear": warmup_linear, "cosine": warmup_cosine}


def set_learning_rates(optimizers: Iterable[Optimizer], lr: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)


def seed_batch(seed: int, batch: int, rank: int = 0) -> None:
    """Seed torch for one batch by its number, so that a resumed training draws just what an unbroken one draws."""
    words = np.random.SeedSequence([seed % 2**64, batch, rank]).generate_state(1, np.uint64)
    torch.manual_seed(int(words[0]))
