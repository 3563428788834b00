"""How the Transformer runs in training: compiled, or with its weights shared out over the ranks (FSDP).

Neither changes a name in a checkpoint.
"""

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from clipgen.transformer.model import Transformer


def compile_in_place(transformer: Transformer) -> None:
    """What training and validation call; sampling runs as it is. It is compiled when it first runs."""
    transformer.outputs = torch.compile(transformer.outputs)


def shard(transformer: Transformer, beside: nn.Module | None, mesh: DeviceMesh) -> None:
    """Each rank holds its part of every parameter; a block's are gathered while it runs (FSDP2).

    Gradients, their norm and Muon's products are those of whole matrices, as they are DTensors.
    """
    for block in transformer.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(transformer, mesh=mesh)
    register_fsdp_forward_method(transformer, "outputs")
    if beside is not None:
        fully_shard(beside, mesh=mesh)
