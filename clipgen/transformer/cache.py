"""Keys and values of the tokens so far, in memory allocated once.

B batch, N heads, T most positions, S new positions, K head size
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from clipgen.transformer.sight import Sight


class KVCache(nn.Module):
    """One per `generate`; `length` positions are filled, and attention sees those, by `sight`."""

    def __init__(self, layers: int, batch: int, heads: int, positions: int, head_dim: int, dtype, device):
        super().__init__()
        shape = layers, batch, heads, positions, head_dim
        self.register_buffer("keys", torch.empty(shape, dtype=dtype, device=device), persistent=False)
        self.register_buffer("values", torch.empty(shape, dtype=dtype, device=device), persistent=False)
        self.length = 0
        self.sight: Sight | None = None  # None: all

    def extend(self, layer: int, k_BNSK: Tensor, v_BNSK: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values behind the filled part and return all of them."""
        stop = self.length + k_BNSK.shape[2]
        self.keys[layer, :, :, self.length : stop] = k_BNSK
        self.values[layer, :, :, self.length : stop] = v_BNSK
        return self.keys[layer, :, :, :stop], self.values[layer, :, :, :stop]


class Slot(NamedTuple):
    """One place of a cache whose whole length attention is given: shapes stay, and a `Sight` hides what is not there.

    `at_1` is the place, a tensor.
    """

    cache: KVCache
    at_1: Tensor

    def extend(self, layer: int, k_BN1K: Tensor, v_BN1K: Tensor) -> tuple[Tensor, Tensor]:
        """Store a new key and value at the place and return all that there is room for."""
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        keys.index_copy_(2, self.at_1, k_BN1K)
        values.index_copy_(2, self.at_1, v_BN1K)
        return keys, values
