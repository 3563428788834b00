"""The stage-2 Transformer: CLIP embedding → image tokens (CLIP-GEN, arXiv 2203.00386, section 3.2).

The blocks are today's (RMSNorm, SwiGLU, QK-norm, 2-D rotary positions: LlamaGen, arXiv 2406.06525) or, with
style="gpt2", the paper's (LayerNorm, GELU, learned positions, biases, no level token). The position of the token to
come is added to each input (RAR, arXiv 2411.00776); with one prefix token that is GPT-2's learned position.

B batch, L image tokens (row-major h·w), P prefix tokens, T = P + L - 1 inputs, D width, N heads, K head size,
V codebook size, E embedding size
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clipgen.transformer.cache import KVCache
from clipgen.transformer.condition import Conditioner
from clipgen.transformer.norm import RMSNorm

PLAIN_ATTENTION_UP_TO = 512  # on the CPU torch's fused kernel is slower than plain products below about this length


class Transformer(nn.Module):
    """Causal model of an image's tokens given prefix tokens made from one embedding and its noise level.

    Three settings only say how it was trained: whether on `centred` embeddings, whether on tokens in `any_order`, and
    the least level it has seen (`min_level`; None: unknown).
    """

    def __init__(
        self,
        grid: tuple[int, int],
        codebook_size: int,
        embed_dim: int,
        width: int,
        depth: int,
        heads: int,
        n_prefix: int = 4,
        cond_drop_prob: float = 0.1,
        dropout: float = 0.0,
        rope_base: float = 100.0,
        style: str = "modern",
        level_token: bool = True,
        gft: bool = False,
        centred: bool = True,
        any_order: bool = False,
        min_level: float | None = None,
    ):
        super().__init__()
        h, w = self.grid = tuple(grid)
        self.codebook_size = codebook_size
        self.gft, self.centred, self.any_order, self.min_level = gft, centred, any_order, min_level
        self.checkpointing = False  # hold only the input of each block for the backward pass
        modern = style == "modern"
        self.conditioner = Conditioner(embed_dim, width, n_prefix, cond_drop_prob, level_token and modern, gft)
        self.n_prefix = self.conditioner.n_tokens
        self.embed = nn.Embedding(codebook_size, width)
        self.place_LD = nn.Parameter(torch.zeros(h * w, width))  # of the token to come
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout, modern) for _ in range(depth))
        self.norm = RMSNorm(width) if modern else nn.LayerNorm(width)
        self.head = nn.Linear(width, codebook_size, bias=not modern)
        cos_TK, sin_TK = rotary_2d(h, w, width // heads, self.n_prefix, rope_base)
        if not modern:
            cos_TK, sin_TK = torch.ones_like(cos_TK), torch.zeros_like(sin_TK)
        self.register_buffer("cos_TK", cos_TK, persistent=False)
        self.register_buffer("sin_TK", sin_TK, persistent=False)
        self.initialise()

    def initialise(self) -> None:
        """Normal(0, 0.02); what ends a residual branch smaller by sqrt(2·depth); a head of zeros."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        for block in self.blocks:
            for ending in (block.attention.out, block.mlp.down):
                nn.init.normal_(ending.weight, std=0.02 / math.sqrt(2 * len(self.blocks)))
            for name, parameter in block.named_parameters():
                if name.endswith("bias"):
                    nn.init.zeros_(parameter)
        nn.init.normal_(self.place_LD, std=0.02)
        nn.init.zeros_(self.head.weight)

    @property
    def n_tokens(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def least_level(self) -> float:
        """The least level it can be asked at; 0 where that of the training is not known or of no effect."""
        return 0.0 if self.conditioner.level is None else self.min_level or 0.0

    def forward(
        self, tokens_BL: Tensor, condition_BE: Tensor, level_B: Tensor, order_BL: Tensor | None = None
    ) -> Tensor:
        """Logits (B, L, V) of every token given those before it; the last token in order is never an input.

        `condition_BE` is of unit length (and centred), `level_B` the cosine it has with the clean embedding. `order_BL`
        has row-major indices in the order of generation (None: raster), and logits i speak of token `order_BL[:, i]`.
        """
        return self.outputs(tokens_BL, condition_BE, level_B, order_BL)[1]

    def outputs(
        self, tokens_BL, condition_BE, level_B, order_BL=None, beta_B=None, dropped_B=None
    ) -> tuple[Tensor, Tensor]:
        """(What the head sees, (B, L, D); logits); rows of `dropped_B` (bool) have the null for a prefix."""
        prefix_BPD = self.conditioner(condition_BE, level_B, beta_B, dropped_B)
        if order_BL is not None:
            tokens_BL = tokens_BL.gather(1, order_BL)
        x_BTD = torch.cat([prefix_BPD, self.embed(tokens_BL[:, :-1])], 1)
        features_BLD = self.run(x_BTD, 0, order_BL=order_BL)[:, self.n_prefix - 1 :]
        return features_BLD, self.head(features_BLD)

    def step(self, x_BSD: Tensor, cache: KVCache, order_BL: Tensor | None = None) -> Tensor:
        """Logits (B, V) of the token after inputs `x_BSD`, which follow what `cache` holds."""
        return self.head(self.run(x_BSD, cache.length, cache, order_BL)[:, -1])

    def new_cache(self, batch: int, dtype: torch.dtype | None = None, device=None) -> KVCache:
        """An empty cache for `batch` rows, in the weights' own type and on their device where nothing is said."""
        at, (T, K) = self.place_LD, self.cos_TK.shape
        heads = self.blocks[0].attention.heads
        return KVCache(len(self.blocks), batch, heads, T, K, dtype or at.dtype, device or at.device)

    def run(self, x_BSD: Tensor, start: int, cache: KVCache | None = None, order_BL: Tensor | None = None) -> Tensor:
        stop = start + x_BSD.shape[1]
        place, cos, sin = self._positions(start, stop, order_BL)
        x_BSD = self.dropout(x_BSD + place)
        for layer, block in enumerate(self.blocks):
            if self.checkpointing and torch.is_grad_enabled():
                x_BSD = checkpoint(block, x_BSD, cos, sin, cache, layer, use_reentrant=False)
            else:
                x_BSD = block(x_BSD, cos, sin, cache, layer)
        if cache is not None:
            cache.length = stop
        return self.norm(x_BSD)

    def _positions(self, start: int, stop: int, order_BL: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Of inputs start … stop the place of the token to come (S, D), and the turns (S, K) of the token itself.

        Input i predicts image token i - P + 1; the inputs before that have no place. With an order each has a batch.
        """
        if order_BL is None and (first := start - self.n_prefix + 1) >= 0:
            return self.place_LD[first : stop - self.n_prefix + 1], self.cos_TK[start:stop], self.sin_TK[start:stop]
        padded_TD = F.pad(self.place_LD, (0, 0, self.n_prefix - 1, 0))
        if order_BL is None:
            return padded_TD[start:stop], self.cos_TK[start:stop], self.sin_TK[start:stop]
        before_BP = torch.arange(self.n_prefix, device=order_BL.device).expand(len(order_BL), -1)
        to_come_BS = torch.cat([before_BP[:, 1:] - 1, order_BL + self.n_prefix - 1], 1)[:, start:stop]
        own_BS = torch.cat([before_BP, order_BL + self.n_prefix], 1)[:, start:stop]
        return padded_TD[to_come_BS], self.cos_TK[own_BS][:, None], self.sin_TK[own_BS][:, None]


class Block(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float, modern: bool):
        super().__init__()
        norm = RMSNorm if modern else nn.LayerNorm
        self.attention_norm = norm(width)
        self.attention = Attention(width, heads, modern)
        self.mlp_norm = norm(width)
        self.mlp = SwiGLU(width) if modern else GELU(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BSD, cos_SK, sin_SK, cache: KVCache | None, layer: int):
        x_BSD = x_BSD + self.dropout(self.attention(self.attention_norm(x_BSD), cos_SK, sin_SK, cache, layer))
        return x_BSD + self.dropout(self.mlp(self.mlp_norm(x_BSD)))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, modern: bool):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=not modern)
        self.out = nn.Linear(width, width, bias=not modern)
        self.q_norm = RMSNorm(width // heads) if modern else nn.Identity()
        self.k_norm = RMSNorm(width // heads) if modern else nn.Identity()

    def forward(self, x_BSD, cos_SK, sin_SK, cache: KVCache | None, layer: int):
        B, S, D = x_BSD.shape
        q_BNSK, k_BNSK, v_BNSK = self.qkv(x_BSD).view(B, S, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q_BNSK = rotate(self.q_norm(q_BNSK), cos_SK, sin_SK).to(v_BNSK.dtype)
        k_BNSK = rotate(self.k_norm(k_BNSK), cos_SK, sin_SK).to(v_BNSK.dtype)
        if cache is not None:
            k_BNSK, v_BNSK = cache.extend(layer, k_BNSK, v_BNSK)
        y_BNSK = attend(q_BNSK, k_BNSK, v_BNSK)
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


def attend(q_BNSK: Tensor, k_BNTK: Tensor, v_BNTK: Tensor) -> Tensor:
    """Causal attention of the last S positions over all T; the kernel is chosen by device and length."""
    (B, N, S, K), T = q_BNSK.shape, k_BNTK.shape[2]
    if q_BNSK.device.type != "cpu" or T > PLAIN_ATTENTION_UP_TO:
        assert S in (1, T), (S, T)  # torch counts its causal mask from the first position, not from the last
        return F.scaled_dot_product_attention(q_BNSK, k_BNTK, v_BNTK, is_causal=S > 1)
    if S == 1:  # keys times query: they are read as they lie, which bf16 needs more than fp32
        scores_BN1T = (k_BNTK @ (q_BNSK * K**-0.5).transpose(-1, -2)).transpose(-1, -2)
        return scores_BN1T.softmax(-1) @ v_BNTK
    later_ST = torch.full((S, T), float("-inf"), dtype=q_BNSK.dtype).triu(T - S + 1)
    q_MSK, k_MTK, v_MTK = (x.reshape(B * N, -1, K) for x in (q_BNSK, k_BNTK, v_BNTK))
    scores_MST = torch.baddbmm(later_ST, q_MSK, k_MTK.transpose(1, 2), alpha=K**-0.5)  # M = B·N; scale and mask at once
    return (scores_MST.softmax(-1) @ v_MTK).view(B, N, S, K)


def rotary_2d(h: int, w: int, head_dim: int, n_prefix: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines (P + L, K): half of a head turns with the row, half with the column (arXiv 2104.09864).

    Prefix tokens do not turn, so that attention to them knows where in the image it stands.
    """
    if head_dim % 4:
        raise ValueError(f"head size is {head_dim}; 2-D rotary positions need a multiple of 4 (width / heads)")
    turns_F = base ** -(torch.arange(0, head_dim // 4) / (head_dim // 4))
    rows_L = torch.arange(1, h + 1).repeat_interleave(w)
    columns_L = torch.arange(1, w + 1).repeat(h)
    angles_LF = torch.cat([rows_L[:, None] * turns_F, columns_L[:, None] * turns_F], 1)
    angles_TF = F.pad(angles_LF, (0, 0, n_prefix, 0))
    return angles_TF.cos().repeat(1, 2), angles_TF.sin().repeat(1, 2)


def rotate(x_BNSK: Tensor, cos_SK: Tensor, sin_SK: Tensor) -> Tensor:
    first, second = x_BNSK.chunk(2, -1)
    return x_BNSK * cos_SK.to(x_BNSK.dtype) + torch.cat([-second, first], -1) * sin_SK.to(x_BNSK.dtype)
