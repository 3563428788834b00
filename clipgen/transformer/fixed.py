"""A step of sampling whose shapes never change, so that `torch.compile` and a GPU's graph serve all of them.

What differs from token to token is in tensors: the place in the cache, the guidance scale, the number that draws.
Attention is given the whole cache, and a mask hides what is not there yet. On a GPU a step of few rows else takes as
long as its kernels take to launch (gpt-fast's way, https://github.com/pytorch-labs/gpt-fast).

B images, R rows of a pass, P prefix tokens, V codebook size
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from clipgen.transformer.cache import KVCache, Slot
from clipgen.transformer.model import CausalTransformer
from clipgen.transformer.sampling import Filters, pick
from clipgen.transformer.sight import Sight


class FixedStep:
    """One token of B images in R rows; every image after the first is drawn by the same graph, in the same memory."""

    def __init__(self, model: CausalTransformer, R: int, B: int, guided: bool, filters: Filters, compiled: bool = True):
        at = model.place_LD
        self.model, self.B, self.guided, self.filters = model, B, guided, filters
        self.cache = model.new_cache(R)
        for tensor in (self.cache.keys, self.cache.values):
            tensor.zero_()  # what is hidden has weight 0, and must be a number
            if compiled:  # a GPU's graph reads and writes where it was taken
                torch._dynamo.mark_static_address(tensor)
        if compiled:
            mode = "reduce-overhead" if at.device.type == "cuda" else "default"
            self._advance = torch.compile(self._advance, mode=mode, dynamic=False)

    def emptied(self) -> KVCache:
        """The cache, for new images."""
        self.cache.length = 0
        return self.cache

    def follow(self, order: Sequence[int], scales: Sequence[float | None], sight: Sight | None) -> None:
        """What is to come: token `order[i]` is the i-th, drawn at guidance `scales[i]`, seeing by `sight`."""
        model, device = self.model, self.cache.keys.device
        P, R = model.n_prefix, self.cache.keys.shape[1]
        own = [None, *(place + P for place in order[:-1])]
        places = [(P + i - 1, order[i], own[i] if i else 0) for i in range(len(order))]
        self.at_L3 = torch.tensor(places, device=device)
        self.scale_L = torch.tensor([1.0 if scale is None else scale for scale in scales], device=device)
        self.sight = sight or Sight(torch.zeros(R, P, device=device))

    def __call__(self, i: int, token_B1: Tensor, uniform_B: Tensor) -> tuple[Tensor, Tensor]:
        """(Token i of each image, (B, 1); logits of all rows, (R, V)), `token_B1` being the one before."""
        found = self._advance(token_B1, self.at_L3[i], self.scale_L[i], uniform_B, self.sight)
        return tuple(tensor.clone() for tensor in found)  # the graph writes there again

    def _advance(
        self, token_B1: Tensor, at_3: Tensor, scale: Tensor, uniform_B: Tensor, sight: Sight
    ) -> tuple[Tensor, Tensor]:
        slot_1, to_come_1, own_1 = at_3.split(1)
        R = self.cache.keys.shape[1]
        x_R1D = self.model.embed(token_B1.repeat(R // self.B, 1))
        seen = sight._replace(at_1=slot_1)
        logits_RV = self.model.step_at(x_R1D, to_come_1, own_1, Slot(self.cache, slot_1), seen).float()
        return pick(logits_RV, uniform_B, scale if self.guided else None, self.filters), logits_RV
