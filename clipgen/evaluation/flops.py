"""What a training step of stage 2 costs, so that models of different sequences can be trained for as many FLOPs.

One count for every arm: matrix products of forward and backward, three times the forward's, and those of Muon; norms,
activations and look-ups are left out. A causal product is counted whole, as it is computed. Of sparse attention
(clipgen/transformer/sight.py) its share of that is counted, and of texts their pieces without padding: what is computed
beside these is neither attended nor trained on, and not the arm's choice.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Muon
from torch.utils.flop_counter import FlopCounterMode

from clipgen.transformer.optim import newton_schulz, parameter_groups


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


def step_flops(size: Size, positions: float, predicted: Mapping[str, float], batch: int, seen: float = 1.0) -> float:
    """Of a batch of sequences with `positions` inputs on average; each head sees `predicted` of them.

    `seen` is the share of the positions before that attention sees, `share_seen`.
    """
    products = size.blocks * positions + sum(size.heads[name] * n for name, n in predicted.items())
    attention = 12 * size.depth * size.width * positions**2  # scores and values: 2 products of 2 FLOPs, times 3
    return float(batch) * (6 * products + seen * attention)


def muon_flops(model: nn.Module) -> float:
    """Of a step of Muon, whatever the batch: what `newton_schulz` multiplies in float32 for the blocks' matrices."""
    settings = Muon([nn.Parameter(torch.empty(1, 1))]).defaults
    how = settings["ns_coefficients"], settings["ns_steps"], settings["eps"]
    with FlopCounterMode(display=False) as counter:
        for matrix in parameter_groups(model)[0]:
            newton_schulz(torch.empty(matrix.shape, device="meta"), *how)
    return float(counter.get_total_flops())


def share_seen(prefix: float, tokens: int, window: int, pivots: int) -> float:
    """Of all that an image's tokens behind a prefix may look back at, what those see that have a window and pivots.

    The last of the `tokens` is never an input. Pivots are drawn from the others; the mean over all draws is given.
    """
    if not window:
        return 1.0
    inputs = tokens - 1
    far = sum(max(0, before - window) for before in range(1, inputs + 1))  # pairs that lie outside of the window
    positions = prefix + inputs
    return 1 - far * (1 - pivots / inputs) / (positions * (positions + 1) / 2)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
