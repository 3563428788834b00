"""One of two processes: how far a Muon's step of a shared-out matrix is from that of the whole; then of its halves."""

import sys

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from clipgen.transformer.optim import Muon

torch.manual_seed(0)
DTYPE = getattr(torch, sys.argv[1])
WEIGHT, GRADIENT = torch.randn(48, 33), torch.randn(48, 33)


def moved(weight: Tensor, gradient: Tensor) -> Tensor:
    parameter = torch.nn.Parameter(weight.clone())
    parameter.grad = gradient.clone()
    Muon([parameter], 0.02, DTYPE, weight_decay=0.0).step()
    return parameter.detach()


def main() -> None:
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    whole = moved(WEIGHT, GRADIENT) - WEIGHT
    shared = moved(*(distribute_tensor(each, mesh, [Shard(0)]) for each in (WEIGHT, GRADIENT))).full_tensor() - WEIGHT
    halves = torch.cat([moved(*each) for each in zip(WEIGHT.chunk(2), GRADIENT.chunk(2), strict=True)]) - WEIGHT
    if dist.get_rank() == 0:
        print(*(((each - whole).norm() / whole.norm()).item() for each in (shared, halves)))
    dist.destroy_process_group()


main()
