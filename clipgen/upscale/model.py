"""The Transformer that enlarges: the tokens of a small window → those of the same window at twice the size.

After CogView (arXiv 2105.13290, section 3.1), whose finetuned model reads 16×16 tokens and writes 32×32. The small
window is the prefix. A small token turns with the middle of the four that it becomes, so that attention finds it by
place; that and the begin are all that is new to a Transformer of stage 2 or of captions which is finetuned for it.

B batch, S tokens of the small window, P = S + 1 prefix tokens, L = 4·S tokens of the large window, D width,
V codebook size
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from clipgen.transformer.cache import KVCache
from clipgen.transformer.model import CausalTransformer, rotary
from clipgen.upscale.windows import SCALE


class UpscaleTransformer(CausalTransformer):
    """Causal model of a large window's tokens behind those of the small one; `small` is (height, width) of the latter.

    It is never asked without its small window, so it knows no null and no guidance.
    """

    knows_null = False

    def __init__(
        self,
        window: Sequence[int],
        codebook_size: int,
        width: int,
        depth: int,
        heads: int,
        dropout: float = 0.0,
        rope_base: float = 100.0,
        style: str = "modern",
        sandwich: bool = False,
        pb_relax: bool = False,
    ):
        h, w = self.small = tuple(window)
        super().__init__((SCALE * h, SCALE * w), codebook_size)
        self.embed = nn.Embedding(codebook_size, width)
        self.place_of_small_SD = nn.Parameter(torch.zeros(h * w, width))
        self.begin_D = nn.Parameter(torch.zeros(width))
        self.make_blocks(h * w + 1, width, depth, heads, dropout, rope_base, style, sandwich, pb_relax)
        if style == "modern":
            rows_S = SCALE * torch.arange(h).repeat_interleave(w) + (SCALE + 1) / 2  # places count from 1
            columns_S = SCALE * torch.arange(w).repeat(h) + (SCALE + 1) / 2
            turns = rotary(rows_S, columns_S, width // heads, rope_base)
            self.cos_TK[: h * w], self.sin_TK[: h * w] = turns
        self.head = nn.Linear(width, codebook_size, bias=style != "modern")
        self.initialise()
        nn.init.normal_(self.place_of_small_SD, std=0.02)
        nn.init.normal_(self.begin_D, std=0.02)
        nn.init.zeros_(self.head.weight)

    def forward(self, large_BL: Tensor, small_BS: Tensor) -> Tensor:
        """Logits (B, L, V) of every token of the large window given those before it."""
        return self.outputs(large_BL, small_BS)

    def outputs(self, large_BL: Tensor, small_BS: Tensor) -> Tensor:
        """`forward`, which is compiled or shared out under this name (clipgen/transformer/execution.py)."""
        prefix_BPD, _ = self.prefix(small_BS)
        x_BTD = torch.cat([prefix_BPD, self.embed(large_BL[:, :-1])], 1)
        return self.head(self.run(x_BTD, 0)[:, self.n_prefix - 1 :])

    def begin_from(self, weights: Mapping[str, Tensor]) -> None:
        """Take over what a Transformer of the same shape and tokens has: codes, places, blocks, head.

        Of a vocabulary of text and image the codes come first.
        """
        own = self.state_dict()
        taken = {name: weights[name] for name in own.keys() & weights.keys()}
        taken["embed.weight"] = taken["embed.weight"][: self.codebook_size]
        self.load_state_dict(own | taken)

    def prefix(self, small_BS: Tensor, level_B: Tensor | None = None, beta: float = 1.0) -> tuple[Tensor, None]:
        """The prefix tokens (B, P, D) of small windows; none of them is hidden."""
        begin_B1D = self.begin_D.expand(len(small_BS), 1, -1)
        return torch.cat([self.embed(small_BS) + self.place_of_small_SD, begin_B1D], 1), None

    def step(self, x_BSD: Tensor, cache: KVCache, order_BL: Tensor | None = None) -> Tensor:
        """Logits (B, V) of the token after inputs `x_BSD`, which follow what `cache` holds."""
        return self.head(self.run(x_BSD, cache.length, cache, order_BL)[:, -1])
