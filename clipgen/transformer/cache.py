"""Keys and values of the tokens so far, in memory allocated once.

B batch, N heads, T most positions, S new positions, K head size
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from clipgen.transformer.sight import Sight


class KVCache(nn.Module):
    """One per `generate`; `length` positions are filled, and attention sees those, by `sight`.

    Each layer has tensors of its own (B, N, T, K): of one for all layers a compiled step would copy the whole.
    """

    def __init__(self, layers: int, batch: int, heads: int, positions: int, head_dim: int, dtype, device):
        super().__init__()
        self.batch = batch
        for name in (f"{kind}_{layer}" for layer in range(layers) for kind in ("keys", "values")):
            empty_BNTK = torch.empty(batch, heads, positions, head_dim, dtype=dtype, device=device)
            self.register_buffer(name, empty_BNTK, persistent=False)
        self.length = 0
        self.sight: Sight | None = None  # None: all

    def of_layer(self, layer: int) -> tuple[Tensor, Tensor]:
        """All keys and values that there is room for, (B, N, T, K) each."""
        return getattr(self, f"keys_{layer}"), getattr(self, f"values_{layer}")

    def extend(self, layer: int, k_BNSK: Tensor, v_BNSK: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values behind the filled part and return all of them."""
        stop = self.length + k_BNSK.shape[2]
        keys, values = self.of_layer(layer)
        keys[:, :, self.length : stop] = k_BNSK
        values[:, :, self.length : stop] = v_BNSK
        return keys[:, :, :stop], values[:, :, :stop]


class Slot(NamedTuple):
    """One place of a cache whose whole length attention is given: shapes stay, and a `Sight` hides what is not there.

    `at_1` is the place, a tensor.
    """

    cache: KVCache
    at_1: Tensor

    def extend(self, layer: int, k_BN1K: Tensor, v_BN1K: Tensor) -> tuple[Tensor, Tensor]:
        """Store a new key and value at the place and return all that there is room for."""
        keys, values = self.cache.of_layer(layer)
        keys.index_copy_(2, self.at_1, k_BN1K)
        values.index_copy_(2, self.at_1, v_BN1K)
        return keys, values
