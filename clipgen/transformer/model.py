"""The stage-2 Transformer: CLIP embedding → image tokens (CLIP-GEN, arXiv 2203.00386, section 3.2).

The blocks are today's (RMSNorm, SwiGLU, QK-norm, 2-D rotary positions: LlamaGen, arXiv 2406.06525) or, with
style="gpt2", the paper's (LayerNorm, GELU, learned positions, biases, no level token). The position of the token to
come is added to each input (RAR, arXiv 2411.00776); with one prefix token that is GPT-2's learned position.

B batch, L image tokens (row-major h·w), P prefix tokens, T = P + L - 1 inputs, D width, N heads, K head size,
V codebook size, E embedding size
"""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clipgen.transformer.blocks import Block, make_norm
from clipgen.transformer.cache import KVCache, Slot
from clipgen.transformer.condition import Conditioner
from clipgen.transformer.sight import HIDDEN, Sight, draw_pivots


class CausalTransformer(nn.Module):
    """What knows an image's tokens one after the other, behind P prefix tokens, whatever these are made from.

    `sandwich` and `pb_relax` are CogView's (clipgen/transformer/blocks.py, relaxed.py).
    """

    gft = centred = any_order = False
    least_level = 0.0
    window = pivots = 0  # of an image's tokens, what one sees of those before; 0: all

    def __init__(self, grid: tuple[int, int], codebook_size: int):
        super().__init__()
        self.grid = tuple(grid)
        self.codebook_size = codebook_size
        self.checkpointing = False  # hold only the input of each block for the backward pass

    def make_blocks(
        self, n_prefix, width, depth, heads, dropout, rope_base, style, sandwich=False, pb_relax=False
    ) -> None:
        """After the prefix and the embedding are made, so that a seed gives the weights that it always gave."""
        modern, (h, w) = style == "modern", self.grid
        self.n_prefix = n_prefix
        self.place_LD = nn.Parameter(torch.zeros(h * w, width))  # of the token to come
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout, modern, sandwich, pb_relax) for _ in range(depth))
        self.norm = make_norm(width, modern, pb_relax)
        cos_TK, sin_TK = rotary_2d(h, w, width // heads, n_prefix, rope_base)
        if not modern:
            cos_TK, sin_TK = torch.ones_like(cos_TK), torch.zeros_like(sin_TK)
        self.register_buffer("cos_TK", cos_TK, persistent=False)
        self.register_buffer("sin_TK", sin_TK, persistent=False)
        if self.window:
            own_1YQ = self.draw_pivots([torch.Generator().manual_seed(0)])
            self.register_buffer("pivot_1YQ", own_1YQ, persistent=False)

    def initialise(self) -> None:
        """Normal(0, 0.02), what ends a residual branch smaller by sqrt(2·depth)."""
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

    @property
    def n_tokens(self) -> int:
        return self.grid[0] * self.grid[1]

    def new_cache(self, batch: int, dtype: torch.dtype | None = None, device=None) -> KVCache:
        """An empty cache for `batch` rows, in the weights' own type and on their device where nothing is said."""
        at, (T, K) = self.place_LD, self.cos_TK.shape
        heads = self.blocks[0].attention.heads
        return KVCache(len(self.blocks), batch, heads, T, K, dtype or at.dtype, device or at.device)

    def draw_pivots(self, generators: Iterable[torch.Generator]) -> Tensor:
        """For each image of its own generator, and for each layer, tokens that all later ones see, (B, layers, Q)."""
        shape = len(self.blocks), self.n_tokens - 1  # the last token is never an input
        drawn = [draw_pivots(shape, self.pivots, generator, "cpu") for generator in generators]
        return torch.stack(drawn).to(self.place_LD.device, non_blocking=True)

    def sight(
        self, batch: int, hidden_BP: Tensor | None = None, pivot_BYQ: Tensor | None = None, boost: float = 0.0
    ) -> Sight | None:
        """What rows see whose prefix has padding at `hidden_BP`; `boost` is added to the scores of the prefix.

        Without pivots, where some are needed, all rows have the same, drawn by seed 0.
        """
        if hidden_BP is None and not (boost or self.window):
            return None
        prefix_BP = self.place_LD.new_full((batch, self.n_prefix), boost)
        if hidden_BP is not None:
            prefix_BP = prefix_BP.masked_fill(hidden_BP, HIDDEN)
        if self.window and pivot_BYQ is None:
            pivot_BYQ = self.pivot_1YQ.expand(batch, -1, -1)
        return Sight(prefix_BP, self.window, pivot_BYQ)

    def run(
        self,
        x_BSD: Tensor,
        start: int,
        cache: KVCache | None = None,
        order_BL: Tensor | None = None,
        sight: Sight | None = None,
    ) -> Tensor:
        """What the head sees of inputs start … start + S - 1, whose attention sees by `sight` (None: all before)."""
        stop = start + x_BSD.shape[1]
        x_BSD = self._through(x_BSD, self._positions(start, stop, order_BL), cache, sight)
        if cache is not None:
            cache.length = stop
        return x_BSD

    def step_at(self, x_B1D: Tensor, to_come_1: Tensor, own_1: Tensor, cache: Slot, sight: Sight) -> Tensor:
        """Logits (B, V) after one input, as `step`; its places are tensors, so that one graph serves all steps.

        `to_come_1` is the place of the token to come, `own_1` that of the input, counted from the first prefix token.
        """
        at = self.place_LD[to_come_1], self.cos_TK[own_1], self.sin_TK[own_1]
        return self.head(self._through(x_B1D, at, cache, sight)[:, -1])

    def _through(
        self, x_BSD: Tensor, at: tuple[Tensor, Tensor, Tensor], cache: KVCache | Slot | None, sight: Sight | None
    ) -> Tensor:
        """All blocks and the last norm; `at` has the places to come and the turns of the inputs."""
        place, cos, sin = at
        x_BSD = self.dropout(x_BSD + place)
        for layer, block in enumerate(self.blocks):
            if self.checkpointing and torch.is_grad_enabled():
                x_BSD = checkpoint(block, x_BSD, cos, sin, cache, layer, sight, use_reentrant=False)
            else:
                x_BSD = block(x_BSD, cos, sin, cache, layer, sight)
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


class Transformer(CausalTransformer):
    """Causal model of an image's tokens given prefix tokens made from one embedding and its noise level.

    Four settings only say how it was trained: whether on `centred` embeddings, of the image itself or of a text of it
    (`condition`), whether on tokens in `any_order`, and the least level it has seen (`min_level`; None: unknown).
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
        condition: str = "image",
    ):
        super().__init__(grid, codebook_size)
        self.gft, self.centred, self.any_order, self.min_level = gft, centred, any_order, min_level
        self.condition = condition
        modern = style == "modern"
        self.conditioner = Conditioner(embed_dim, width, n_prefix, cond_drop_prob, level_token and modern, gft)
        self.embed = nn.Embedding(codebook_size, width)
        self.make_blocks(self.conditioner.n_tokens, width, depth, heads, dropout, rope_base, style)
        self.head = nn.Linear(width, codebook_size, bias=not modern)
        self.initialise()
        nn.init.zeros_(self.head.weight)

    @property
    def knows_null(self) -> bool:
        """Whether it was trained without a condition too, as guidance needs it."""
        return self.conditioner.drop_prob > 0

    @property
    def told_level(self) -> bool:
        """Whether it is told how near its condition is to the clean embedding."""
        return self.conditioner.level is not None

    @property
    def least_level(self) -> float:
        """The least level it can be asked at; 0 where that of the training is not known or of no effect."""
        return self.min_level or 0.0 if self.told_level else 0.0

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

    def prefix(self, condition_BE: Tensor, level_B: Tensor, beta: float = 1.0) -> tuple[Tensor, None]:
        """The prefix tokens (B, P, D) of a condition; none of them is hidden."""
        return self.conditioner(condition_BE, level_B, torch.full_like(level_B, beta)), None

    def null_prefix(self, batch: int) -> tuple[Tensor, None]:
        """The prefix tokens of no condition."""
        return self.conditioner.null(batch), None

    def step(self, x_BSD: Tensor, cache: KVCache, order_BL: Tensor | None = None) -> Tensor:
        """Logits (B, V) of the token after inputs `x_BSD`, which follow what `cache` holds."""
        return self.head(self.run(x_BSD, cache.length, cache, order_BL, cache.sight)[:, -1])


def rotary_2d(h: int, w: int, head_dim: int, n_prefix: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines (P + L, K): half of a head turns with the row, half with the column (arXiv 2104.09864).

    Prefix tokens do not turn, so that attention to them knows where in the image it stands.
    """
    rows_L = torch.arange(1, h + 1).repeat_interleave(w)
    columns_L = torch.arange(1, w + 1).repeat(h)
    return rotary(F.pad(rows_L, (n_prefix, 0)), F.pad(columns_L, (n_prefix, 0)), head_dim, base)


def rotary(rows_L: Tensor, columns_L: Tensor, head_dim: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines (L, K) of tokens at these places, the latter negative in the first half, as `rotate` needs."""
    if head_dim % 4:
        raise ValueError(f"head size is {head_dim}; 2-D rotary positions need a multiple of 4 (width / heads)")
    turns_F = base ** -(torch.arange(0, head_dim // 4) / (head_dim // 4))
    angles_LH = torch.cat([rows_L[:, None] * turns_F, columns_L[:, None] * turns_F], 1)  # H = K / 2
    cos_LH, sin_LH = angles_LH.cos(), angles_LH.sin()
    return torch.cat([cos_LH, cos_LH], 1), torch.cat([-sin_LH, sin_LH], 1)
