"""A step of sampling whose shapes never change, so that `torch.compile` and a GPU's graph serve all of them.

What differs from token to token is in tensors: the place in the cache, the guidance scale, the number that draws.
Attention is given the whole cache, and a mask hides what is not there yet. On a GPU a step of few rows else takes as
long as its kernels take to launch (gpt-fast's way, https://github.com/pytorch-labs/gpt-fast).

B images, R rows of a pass, P prefix tokens, V codebook size
"""

from collections.abc import Callable, Sequence
from types import FunctionType

import torch
from torch import Tensor

from clipgen.transformer.cache import KVCache, Slot
from clipgen.transformer.model import CausalTransformer
from clipgen.transformer.sampling import Filters, compute_dtype, pick
from clipgen.transformer.sight import Sight


class FixedStep:
    """One token of B images in R rows; every image after the first is drawn by the same graph, in the same memory."""

    def __init__(self, model: CausalTransformer, R: int, B: int, guided: bool, filters: Filters, compiled: bool = True):
        self.model, self.B, self.guided, self.filters = model, B, guided, filters
        self.cache = model.new_cache(R, compute_dtype(model))
        self.advance = _compiled(advance, self.cache) if compiled else advance

    def emptied(self) -> KVCache:
        """The cache, for new images."""
        self.cache.length = 0
        for tensor in self.cache.buffers():
            tensor.zero_()  # what is hidden has weight 0, and must be a number
        return self.cache

    def follow(self, order: Sequence[int], scales: Sequence[float | None], sight: Sight | None) -> None:
        """What is to come: token `order[i]` is the i-th, drawn at guidance `scales[i]`, seeing by `sight`."""
        P, device = self.model.n_prefix, self.model.place_LD.device
        own = [None, *(place + P for place in order[:-1])]
        places = [(P + i - 1, order[i], own[i] if i else 0) for i in range(len(order))]
        self.at_L3 = torch.tensor(places).to(device, non_blocking=True)
        scale_L = torch.tensor([1.0 if scale is None else scale for scale in scales])
        self.scale_L = scale_L.to(device, non_blocking=True)
        self.sight = sight or Sight(torch.zeros(self.cache.batch, P, device=device))

    def __call__(self, i: int, token_B1: Tensor, uniform_B: Tensor) -> tuple[Tensor, Tensor]:
        """(Token i of each image, (B, 1); logits of all rows, (R, V)), `token_B1` being the one before."""
        scale = self.scale_L[i] if self.guided else None
        at = token_B1, self.at_L3[i], scale, uniform_B, self.sight
        found = self.advance(self.model, self.cache, self.filters, *at)
        return tuple(tensor.clone() for tensor in found)  # the graph writes there again


def advance(
    model: CausalTransformer, cache: KVCache, filters: Filters,
    token_B1: Tensor, at_3: Tensor, scale: Tensor | None, uniform_B: Tensor, sight: Sight,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """What `FixedStep` gives; `at_3` is the place in the cache, the one to be drawn and the last token's own."""
    slot_1, to_come_1, own_1 = at_3.split(1)
    x_R1D = model.embed(token_B1.repeat(cache.batch // len(token_B1), 1))
    seen = sight._replace(at_1=slot_1)
    logits_RV = model.step_at(x_R1D, to_come_1, own_1, Slot(cache, slot_1), seen).float()
    return pick(logits_RV, uniform_B, scale, filters), logits_RV


def _compiled(function: FunctionType, cache: KVCache) -> Callable:
    """Compiled by itself: what the compiler makes it keeps with the code, 8 at most, so each has a copy of the code."""
    for tensor in cache.buffers():  # a GPU's graph reads and writes where it was taken
        torch._dynamo.mark_static_address(tensor)
    mode = "reduce-overhead" if next(cache.buffers()).device.type == "cuda" else "default"
    own = FunctionType(function.__code__.replace(), function.__globals__)
    return torch.compile(own, mode=mode, dynamic=False, fullgraph=True)
