"""Causal attention at the demo's and larger lengths, forward + backward: the kernel we choose against the other one."""

import torch
import torch.nn.functional as F
from table import row, seconds, show

from clipgen.transformer.blocks import attend


def attention(batch: int, heads: int, length: int, head_dim: int) -> dict:
    q, k, v = (torch.randn(batch, heads, length, head_dim, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))

    def peer():
        F.scaled_dot_product_attention(q, k, v, is_causal=True).sum().backward()

    mine, theirs = seconds(lambda: attend(q, k, v).sum().backward(), peer, rounds=5)
    return row(
        f"attention B={batch} heads={heads}×{head_dim} T={length}", "ms", 1e3 * mine, 1e3 * theirs, "torch fused"
    )


if __name__ == "__main__":
    show([attention(32, 3, 68, 64), attention(8, 8, 260, 64), attention(2, 8, 1028, 64)], "Causal attention, bf16")
