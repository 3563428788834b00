"""Sums and rows over all ranks of a training, which are what came in where there is one; and the cores of a machine.

R ranks, B pictures of a rank, L vectors of a picture, D vector size
"""

import os
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_gather

T = TypeVar("T")


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if world_size() > 1 else 0


def from_rank_zero(make: Callable[[], T]) -> T:
    """What `make` gives on the first rank, which alone calls it."""
    found = [make() if rank() == 0 else None]
    if world_size() > 1:
        dist.broadcast_object_list(found)
    return found[0]


def same_on_ranks(value: str) -> bool:
    """Whether all ranks have the same text."""
    found = [value]
    if world_size() > 1:
        found = [""] * world_size()
        dist.all_gather_object(found, value)
    return len(set(found)) == 1


def any_rank(mine: bool) -> bool:
    """Whether it is so on any rank."""
    return bool(sum_over_ranks(torch.tensor(int(mine)))) if world_size() > 1 else mine


def sum_over_ranks(tensor: Tensor) -> Tensor:
    if world_size() > 1:
        dist.all_reduce(tensor := tensor.contiguous().clone())
    return tensor


def mean_over_ranks(tensor: Tensor) -> Tensor:
    return sum_over_ranks(tensor) / world_size() if world_size() > 1 else tensor


def gather_rows(rows_BD: Tensor) -> Tensor:
    """(R·B, D) of all ranks, with gradients to each rank's own from the losses of all."""
    return torch.cat(all_gather(rows_BD.contiguous())) if world_size() > 1 else rows_BD


def gather_pictures(vectors_BLD: Tensor) -> Tensor:
    """(R·B, L, D) in the order that the pictures have in the global batch, of which rank r holds every R-th."""
    if world_size() == 1:
        return vectors_BLD
    found = [torch.empty_like(vectors_BLD) for _ in range(world_size())]
    dist.all_gather(found, vectors_BLD.contiguous())
    return torch.stack(found, 1).flatten(0, 1)


def cores() -> int:
    """Of this machine, as many as this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
