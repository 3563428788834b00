"""Linear layers with their weights laid out once for oneDNN, for sampling in float32 on a CPU.

A step of sampling is a product of a few rows with every weight. Torch gives that to MKL, which on an AMD EPYC reaches a
third of the memory's bandwidth; oneDNN's kernels, fed weights in blocks, reach most of it (benchmarks/sampling.py).
They also sum a row in the same order whatever other rows there are, from two rows on: with MKL, an image's logits
depend on the size of its batch.

M rows, D inputs, F outputs
"""

import copy
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from clipgen.transformer.condition import Conditioner


class PackedLinear(nn.Module):
    """What `linear` computes, in float32, without gradients; a compiled graph calls it as one operator."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), 8)
        self.bias = None if linear.bias is None else linear.bias.detach()
        self.name, self.outputs = id(self), linear.out_features
        _LAYERS[self.name] = self

    def forward(self, x: Tensor) -> Tensor:
        x_MD = x.reshape(-1, x.shape[-1])
        compiling = torch.compiler.is_compiling()
        y_MF = torch.ops.clipgen.packed_linear(x_MD, self.name) if compiling else self.product(x_MD)
        return y_MF.view(*x.shape[:-1], -1)

    def product(self, x_MD: Tensor) -> Tensor:
        if alone := len(x_MD) == 1:  # a single row would be summed by another kernel
            x_MD = x_MD.expand(2, -1)
        y_MF = torch.ops.mkldnn._linear_pointwise(x_MD, self.weight, self.bias, "none", [], "")
        return y_MF[:1] if alone else y_MF


# No compiler can look into weights laid out for oneDNN, so a graph has a layer's name, and finds it when it runs.
_LAYERS: WeakValueDictionary[int, PackedLinear] = WeakValueDictionary()
torch.library.define("clipgen::packed_linear", "(Tensor x_MD, int name) -> Tensor")


@torch.library.impl("clipgen::packed_linear", "CPU")
def _run(x_MD: Tensor, name: int) -> Tensor:
    return _LAYERS[name].product(x_MD)


@torch.library.register_fake("clipgen::packed_linear")
def _shape(x_MD: Tensor, name: int) -> Tensor:
    return x_MD.new_empty(len(x_MD), _LAYERS[name].outputs)


def prepared(model: nn.Module, precision: str = "fp32") -> nn.Module:
    """A copy of `model` for sampling, of which only what differs takes memory; `model` itself where nothing would.

    "fp32" on a CPU: packed linear layers. "bf16": all but a conditioner in bf16. Later changes of the weights do not
    reach the copy.
    """
    if precision == "bf16":
        kept = {name: module for name, module in model.named_children() if isinstance(module, Conditioner)}
        made = copy.deepcopy(model, {id(module): module for module in kept.values()})
        for name in kept:
            setattr(made, name, None)
        made.bfloat16()
        for name, module in kept.items():
            setattr(made, name, module)
        return made
    if next(model.parameters()).device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return model
    made = copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})
    for module in list(made.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Linear:
                setattr(module, name, PackedLinear(child))
    return made
