"""Linear layers with their weights laid out once for oneDNN, for sampling in float32 on a CPU.

A step of sampling is a product of a few rows with every weight. Torch gives that to MKL, which on an AMD EPYC reaches a
third of the memory's bandwidth; oneDNN's kernels, fed weights in blocks, reach most of it (benchmarks/sampling.py).
They also sum a row in the same order whatever other rows there are, from two rows on: with MKL, an image's logits
depend on the size of its batch.

M rows, D inputs, F outputs
"""

import copy

import torch
from torch import Tensor, nn


class PackedLinear(nn.Module):
    """What `linear` computes, in float32, without gradients."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), 8)
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        x_MD = x.reshape(-1, x.shape[-1])
        if alone := len(x_MD) == 1:  # a single row would be summed by another kernel
            x_MD = x_MD.expand(2, -1)
        y_MF = torch.ops.mkldnn._linear_pointwise(x_MD, self.weight, self.bias, "none", [], "")
        return (y_MF[:1] if alone else y_MF).view(*x.shape[:-1], -1)


def packed(model: nn.Module) -> nn.Module:
    """A copy of `model` that shares its tensors but has packed linear layers; `model` itself where they do not apply.

    Later changes of the weights do not reach the copy.
    """
    parameter = next(model.parameters())
    if parameter.device.type != "cpu" or parameter.dtype != torch.float32 or not torch.backends.mkldnn.is_available():
        return model
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    made = copy.deepcopy(model, shared)
    for module in list(made.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Linear:
                setattr(module, name, PackedLinear(child))
    return made
