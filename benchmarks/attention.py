"""Causal attention, forward + backward: at the demo's and larger lengths the kernel we choose against torch's own, and
of long images CogView's three regions in blocks against the same mask on all scores and against plain causal attention.

The regions are 64 tokens of text with pivots and a window: the paper's 768 + 768 (the text is among its first 768),
and smaller ones. FlexAttention has no backward pass on a CPU and refuses what wants a gradient; compiled, without one,
it is a peer of ours, on keys with the pivots gathered before them, as else no block of keys is free of pivots.
"""

import torch
import torch.nn.functional as F
from table import row, seconds, show
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from clipgen.transformer.blocks import attend
from clipgen.transformer.sight import Sight, attend_in_blocks, draw_pivots

TEXT, HEADS, HEAD_DIM = 64, 8, 64
LONG = ((1024, 128, 128), (4096, 256, 256), (4096, 704, 768))  # image tokens, pivots, window


def attention(batch: int, heads: int, length: int, head_dim: int) -> dict:
    q, k, v = (torch.randn(batch, heads, length, head_dim, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))

    def peer():
        F.scaled_dot_product_attention(q, k, v, is_causal=True).sum().backward()

    mine, theirs = seconds(lambda: attend(q, k, v).sum().backward(), peer, rounds=5)
    return row(
        f"attention B={batch} heads={heads}×{head_dim} T={length}", "ms", 1e3 * mine, 1e3 * theirs, "torch fused"
    )


def regions(image: int, pivots: int, window: int, with_flex: bool) -> list[dict]:
    """One image's attention in one layer."""
    torch.manual_seed(0)
    T = TEXT + image - 1
    q, k, v = (torch.randn(1, HEADS, T, HEAD_DIM, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    sight = Sight(torch.zeros(1, TEXT), window, draw_pivots((1, 1, image - 1), pivots))

    def backward_too(call):
        return lambda: call().sum().backward()

    @torch.no_grad()
    def forward(call):
        call()

    calls = {
        "blocks": lambda: attend_in_blocks(attend, q, k, v, sight, 0),
        "the mask on all scores": lambda: attend(q, k, v, sight.bias(T, T, 0, q)),
        "plain causal": lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    }
    if with_flex:
        calls["FlexAttention"] = flex(q, k, v, sight)
    ours, found = calls.pop("blocks"), []
    named = f"3 regions {TEXT}+{pivots}+{window} of {image}"
    for peer, call in calls.items():
        mine, theirs = seconds(lambda: forward(ours), lambda call=call: forward(call), rounds=5, warm_ups=1)
        found.append(row(f"{named}, forward", "ms", 1e3 * mine, 1e3 * theirs, peer))
        if peer != "FlexAttention" or q.device.type != "cpu":
            mine, theirs = seconds(backward_too(ours), backward_too(call), rounds=5, warm_ups=1)
            found.append(row(f"{named}, with backward", "ms", 1e3 * mine, 1e3 * theirs, peer))
    return found


def flex(q, k, v, sight: Sight):
    """The same by FlexAttention."""
    (P, T), Q = (sight.prefix_BP.shape[1], q.shape[2]), sight.pivot_BYQ.shape[2]
    at_Q = sight.pivot_BYQ[0, 0].sort().values + P

    def seen(_b, _h, i, j):
        own = j - Q
        near = (own <= i) & ((own > i - sight.window) | (own < P))
        return torch.where(j < Q, at_Q[j.clamp(max=Q - 1)] <= i - sight.window, near & (j >= Q))

    mask, compiled = create_block_mask(seen, None, None, T, Q + T, device=q.device), torch.compile(flex_attention)

    def call():
        more_k, more_v = (torch.cat([x[:, :, at_Q], x], 2) for x in (k, v))
        return compiled(q.detach(), more_k.detach(), more_v.detach(), block_mask=mask)

    return call


def rows() -> list[dict]:
    short = [attention(32, 3, 68, 64), attention(8, 8, 260, 64), attention(2, 8, 1028, 64)]
    long = [each for sizes in LONG for each in regions(*sizes, with_flex=sizes == LONG[1])]  # it compiles for minutes
    return short + long


if __name__ == "__main__":
    show(rows, "Causal attention, bf16")
