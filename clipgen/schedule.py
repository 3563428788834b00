"""Learning rate as a function of the number of batches trained."""

from collections.abc import Iterable

from torch.optim import Optimizer


def warmup_linear(batch: int, steps: int, warmup: int, final: float = 0.02) -> float:
    """Factor that rises linearly over `warmup` batches and then falls linearly to `final` at batch `steps`."""
    rise = min(1.0, (batch + 1) / max(1, warmup))
    fall = 1 - (1 - final) * max(0, batch - warmup) / max(1, steps - warmup)
    return min(rise, max(final, fall))


def set_learning_rates(optimizers: Iterable[Optimizer], lr: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
