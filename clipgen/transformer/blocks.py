"""The blocks of a causal Transformer: today's (RMSNorm, SwiGLU, QK-norm, rotary positions) or GPT-2's.

B batch, N heads, S new positions, T all positions, K head size, D width
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipgen.transformer.cache import KVCache
from clipgen.transformer.norm import RMSNorm
from clipgen.transformer.relaxed import RelaxedLayerNorm, RelaxedRMSNorm, relaxed_attention
from clipgen.transformer.sight import Sight, attend_in_blocks, unseen

PLAIN_ATTENTION_UP_TO = 512  # on the CPU torch's fused kernel is slower than plain products below about this length


def make_norm(width: int, modern: bool, pb_relax: bool = False) -> nn.Module:
    """RMSNorm or GPT-2's LayerNorm, relaxed where asked for."""
    if pb_relax:
        return RelaxedRMSNorm(width) if modern else RelaxedLayerNorm(width)
    return RMSNorm(width) if modern else nn.LayerNorm(width)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    With `sandwich` a branch ends in a norm of its own, x + LN₂(f(LN₁(x))), so that no branch can outgrow the others
    (Sandwich-LN, CogView, arXiv 2105.13290, section 2.4).
    """

    def __init__(
        self, width: int, heads: int, dropout: float, modern: bool, sandwich: bool = False, pb_relax: bool = False
    ):
        super().__init__()
        self.attention_norm = make_norm(width, modern, pb_relax)
        self.attention = Attention(width, heads, modern, pb_relax)
        self.mlp_norm = make_norm(width, modern, pb_relax)
        self.mlp = SwiGLU(width) if modern else GELU(width)
        self.after_attention = make_norm(width, modern, pb_relax) if sandwich else nn.Identity()
        self.after_mlp = make_norm(width, modern, pb_relax) if sandwich else nn.Identity()
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BSD, cos_SK, sin_SK, cache: KVCache | None, layer: int, sight: Sight | None = None):
        attended_BSD = self.attention(self.attention_norm(x_BSD), cos_SK, sin_SK, cache, layer, sight)
        x_BSD = x_BSD + self.dropout(self.after_attention(attended_BSD))
        return x_BSD + self.dropout(self.after_mlp(self.mlp(self.mlp_norm(x_BSD))))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, modern: bool, pb_relax: bool = False):
        super().__init__()
        self.heads, self.pb_relax = heads, pb_relax
        self.qkv = nn.Linear(width, 3 * width, bias=not modern)
        self.out = nn.Linear(width, width, bias=not modern)
        self.q_norm = make_norm(width // heads, True, pb_relax) if modern else nn.Identity()
        self.k_norm = make_norm(width // heads, True, pb_relax) if modern else nn.Identity()

    def forward(self, x_BSD, cos_SK, sin_SK, cache: KVCache | None, layer: int, sight: Sight | None = None):
        B, S, D = x_BSD.shape
        q_BNSK, k_BNSK, v_BNSK = self.qkv(x_BSD).view(B, S, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q_BNSK = rotate(self.q_norm(q_BNSK), cos_SK, sin_SK).to(v_BNSK.dtype)
        k_BNSK = rotate(self.k_norm(k_BNSK), cos_SK, sin_SK).to(v_BNSK.dtype)
        if cache is not None:
            k_BNSK, v_BNSK = cache.extend(layer, k_BNSK, v_BNSK)
        S, T, core = *(x.shape[2] for x in (q_BNSK, k_BNSK)), relaxed_attention if self.pb_relax else attend
        if sight is not None and sight.in_blocks(S, T):
            y_BNSK = attend_in_blocks(core, q_BNSK, k_BNSK, v_BNSK, sight, layer)
        else:
            bias = None if sight is None else sight.bias(S, T, layer, q_BNSK)
            y_BNSK = core(q_BNSK, k_BNSK, v_BNSK, bias)
        return self.out(y_BNSK.transpose(1, 2).reshape(B, S, D))


class SwiGLU(nn.Module):
    """arXiv 2002.05202; the inner size is 8/3 of the width, so it costs what a plain 4× MLP costs."""

    def __init__(self, width: int):
        super().__init__()
        inner = 64 * round(8 * width / 3 / 64)
        self.up = nn.Linear(width, 2 * inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x):
        gate, value = self.up(x).chunk(2, -1)
        return self.down(F.silu(gate) * value)


class GELU(nn.Module):
    """GPT-2's MLP."""

    def __init__(self, width: int):
        super().__init__()
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x):
        return self.down(F.gelu(self.up(x)))


def attend(q_BNSK: Tensor, k_BNTK: Tensor, v_BNTK: Tensor, bias_BST: Tensor | None = None) -> Tensor:
    """Attention with `bias_BST` added to the scores, or causal, of the last S positions over all T.

    The kernel is chosen by device and length.
    """
    (B, N, S, K), T = q_BNSK.shape, k_BNTK.shape[2]
    one_call = S == 1 and q_BNSK.dtype == torch.float32  # a step of sampling takes as long as its calls
    if q_BNSK.device.type != "cpu" or one_call or T > PLAIN_ATTENTION_UP_TO:
        if bias_BST is not None:
            return F.scaled_dot_product_attention(q_BNSK, k_BNTK, v_BNTK, attn_mask=bias_BST[:, None])
        assert S in (1, T), (S, T)  # torch counts its causal mask from the first position, not from the last
        return F.scaled_dot_product_attention(q_BNSK, k_BNTK, v_BNTK, is_causal=S > 1)
    if S == 1:  # keys times query: they are read as they lie, which bf16 needs
        scores_BN1T = (k_BNTK @ (q_BNSK * K**-0.5).transpose(-1, -2)).transpose(-1, -2)
        if bias_BST is not None:
            scores_BN1T = scores_BN1T + bias_BST[:, None]
        return scores_BN1T.softmax(-1) @ v_BNTK
    bias = unseen(S, T, q_BNSK) if bias_BST is None else bias_BST.repeat_interleave(N, 0)
    q_MSK, k_MTK, v_MTK = (x.reshape(B * N, -1, K) for x in (q_BNSK, k_BNTK, v_BNTK))
    scores_MST = torch.baddbmm(bias, q_MSK, k_MTK.transpose(1, 2), alpha=K**-0.5)  # M = B·N; scale and mask at once
    return (scores_MST.softmax(-1) @ v_MTK).view(B, N, S, K)


def rotate(x_BNSK: Tensor, cos_SK: Tensor, sin_SK: Tensor) -> Tensor:
    """x · cos + (x, its halves swapped) · sin; `sin_SK` is negative in the first half (`rotary`)."""
    cos_SK, sin_SK = cos_SK.to(x_BNSK.dtype), sin_SK.to(x_BNSK.dtype)
    return torch.addcmul(x_BNSK * cos_SK, x_BNSK.roll(x_BNSK.shape[-1] // 2, -1), sin_SK)
