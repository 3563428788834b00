"""What a training step of stage 2 costs, so that models of different sequences can be trained for as many FLOPs.

One count for every arm: matrix products of forward and backward, three times the forward's; norms, activations and
look-ups are left out. A causal product is counted whole, as it is computed.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Size:
    """Parameters of a Transformer by what they do, and its shape.

    `blocks` is what arms are held equal by: the blocks and the last norm. Heads are products too, whose size follows
    the vocabulary; embeddings are looked up, or seen once for a picture.
    """

    blocks: int
    heads: dict[str, int]
    embedding: int
    depth: int
    width: int

    @classmethod
    def of(cls, model: nn.Module) -> "Size":
        """Of a model with `blocks`, `norm` and modules called `…head`; on the meta device as well."""
        blocks = _count(model.blocks) + _count(model.norm)
        heads = {name: _count(module) for name, module in model.named_children() if name.endswith("head")}
        embedding = _count(model) - blocks - sum(heads.values())
        return cls(blocks, heads, embedding, len(model.blocks), model.norm.weight.shape[-1])


def step_flops(size: Size, positions: int, predicted: Mapping[str, int], batch: int) -> float:
    """Of a batch of sequences with `positions` inputs, padding included; each head sees `predicted` of them."""
    products = size.blocks * positions + sum(size.heads[name] * n for name, n in predicted.items())
    attention = 12 * size.depth * size.width * positions**2  # scores and values: 2 products of 2 FLOPs, times 3
    return float(batch) * (6 * products + attention)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
