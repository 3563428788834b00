"""RAR: random orders of an image's tokens, ever fewer of them, until all are in raster order (arXiv 2411.00776).

B batch, L image tokens
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def random_share(done: float, anneal: Sequence[float], last: float = 0.0) -> float:
    """How many rows have a random order: all until `done` = anneal[0], then linearly fewer until `last` at anneal[1].

    `done` and `anneal` are shares of the training.
    """
    first, end = anneal
    fallen = min(1.0, max(0.0, done - first) / (end - first)) if end > first else float(done >= end)
    return 1.0 + fallen * (last - 1.0)


def draw_orders(batch: int, length: int, share: float, device: torch.device | str) -> Tensor:
    """(B, L) row-major indices in the order of generation; a row is random with probability `share`, else raster."""
    random_BL = torch.rand(batch, length, device=device).argsort(1)
    chosen_B1 = torch.rand(batch, 1, device=device) < share
    return torch.where(chosen_B1, random_BL, torch.arange(length, device=device))
