"""Sums and rows over all ranks of a training; with one rank they are what came in.

R ranks, B pictures of a rank, L vectors of a picture, D vector size
"""

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks(tensor: Tensor) -> Tensor:
    if world_size() > 1:
        dist.all_reduce(tensor := tensor.contiguous().clone())
    return tensor


def mean_over_ranks(tensor: Tensor) -> Tensor:
    return sum_over_ranks(tensor) / world_size() if world_size() > 1 else tensor


def gather_pictures(vectors_BLD: Tensor) -> Tensor:
    """(R·B, L, D) in the order that the pictures have in the global batch, of which rank r holds every R-th."""
    if world_size() == 1:
        return vectors_BLD
    found = [torch.empty_like(vectors_BLD) for _ in range(world_size())]
    dist.all_gather(found, vectors_BLD.contiguous())
    return torch.stack(found, 1).flatten(0, 1)
