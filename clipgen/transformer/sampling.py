"""Sampling of image tokens: free functions that know nothing of the model but its prefix and its step.

B images, P prefix tokens, D width, V codebook size, L image tokens
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from clipgen.transformer.cache import KVCache
from clipgen.transformer.model import Transformer


def guide(conditional_BV: Tensor, null_BV: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance on logits (arXiv 2207.12598; 1 is none)."""
    return null_BV + scale * (conditional_BV - null_BV)


def top_k_top_p(logits_BV: Tensor, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Keep the `top_k` largest (0: all), then the fewest whose probabilities sum to `top_p`; the best always stays."""
    if 0 < top_k < logits_BV.shape[-1]:
        least_B1 = logits_BV.topk(top_k, -1).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < least_B1, float("-inf"))
    if top_p < 1.0:
        sorted_BV, order_BV = logits_BV.sort(-1, descending=True)
        p_BV = sorted_BV.softmax(-1)
        beyond_BV = p_BV.cumsum(-1) - p_BV >= top_p
        beyond_BV[:, 0] = False  # top_p = 0 is greedy
        logits_BV = logits_BV.masked_fill(beyond_BV.scatter(-1, order_BV, beyond_BV), float("-inf"))
    return logits_BV


def draw(p_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """One code per row by inverting the cumulative distribution at `uniform_B`, so that a row has a seed of its own."""
    cumulative_BV = p_BV.double().cumsum(-1)
    chosen_B1 = torch.searchsorted(cumulative_BV, uniform_B[:, None].double() * cumulative_BV[:, -1:], right=True)
    last_B1 = (p_BV > 0).double().cumsum(-1).argmax(-1, keepdim=True)
    return torch.minimum(chosen_B1, last_B1)[:, 0]


@torch.no_grad()
def generate(
    model: Transformer,
    condition_BE: Tensor,
    level_B: Tensor,
    seeds: Sequence[int],
    guidance_scale: float = 1.0,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    on_token: Callable[[], None] | None = None,
    negative_BE: Tensor | None = None,
) -> Tensor:
    """Tokens (B, h, w) for B conditions; image i depends on `seeds[i]` and on no other image of the batch.

    Guidance leads away from the conditions `negative_BE` where there are some, else from the learned null.
    """
    B, L = len(condition_BE), model.n_tokens
    uniform_BL = torch.stack([torch.rand(L, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    uniform_BL = uniform_BL.to(condition_BE.device)
    prefix_BPD = model.conditioner(condition_BE, level_B)
    guided = guidance_scale != 1.0
    if guided:  # one batched pass: the conditioned rows, then the null ones
        null_BPD = model.conditioner.null(B) if negative_BE is None else model.conditioner(negative_BE, level_B)
        prefix_BPD = torch.cat([prefix_BPD, null_BPD.to(prefix_BPD.dtype)])
    attention = model.blocks[0].attention
    head_dim = model.cos_TK.shape[1]
    cache = KVCache(
        len(model.blocks),
        len(prefix_BPD),
        attention.heads,
        len(model.cos_TK),
        head_dim,
        _dtype(model),
        prefix_BPD.device,
    )
    x_BSD, tokens = prefix_BPD, []
    for i in range(L):
        logits_BV = model.step(x_BSD, cache).float()
        if guided:
            logits_BV = guide(logits_BV[:B], logits_BV[B:], guidance_scale)
        p_BV = top_k_top_p(logits_BV / max(temperature, 1e-6), top_k, top_p).softmax(-1)
        token_B = draw(p_BV, uniform_BL[:, i])
        tokens.append(token_B)
        x_BSD = model.embed(token_B)[:, None]
        if guided:
            x_BSD = torch.cat([x_BSD, x_BSD])
        if on_token:
            on_token()
    return torch.stack(tokens, 1).view(B, *model.grid)


def _dtype(model: Transformer) -> torch.dtype:
    device = model.place_LD.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else model.place_LD.dtype
