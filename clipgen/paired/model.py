"""CogView's Transformer (arXiv 2105.13290): text, then image tokens, one causal sequence in one vocabulary.

It has the blocks, the places of image tokens and the cache of stage 2 (clipgen/transformer/model.py): its prefix is the
text. Which part of the vocabulary may come is known by position, so the head is in two parts, one of codes and one of
pieces and commands, and an image's loss is over its codebook as that of the other arms is.

B batch, P prefix tokens (padding, [ROI1], text, [BASE], [BOI1]), L image tokens, D width, V codebook size,
W pieces and commands
"""

import torch
from torch import Tensor, nn

from clipgen.paired.layout import Layout
from clipgen.transformer.cache import KVCache
from clipgen.transformer.model import CausalTransformer


class TextAndImage(CausalTransformer):
    """The parts of a model of texts and images, whichever comes first: weights of one order can go on in the other.

    `sandwich` (Sandwich-LN), `pb_relax` and `shrink_gradient` are what kept CogView's 4 B parameters stable in fp16.
    With shrink α < 1 the embedding's gradient is α of its own: emb = α · emb + (1 - α) · detach(emb) (section 2.4;
    α = 0.1 there). With a `window` an image's token sees the text, the last tokens up to itself, and `pivots` of those
    before (clipgen/transformer/sight.py). `text_drop_prob` only says how it was trained.
    """

    def __init__(
        self,
        grid: tuple[int, int],
        codebook_size: int,
        pieces: int,
        text_length: int,
        width: int,
        depth: int,
        heads: int,
        text_drop_prob: float = 0.1,
        dropout: float = 0.0,
        rope_base: float = 100.0,
        style: str = "modern",
        sandwich: bool = False,
        pb_relax: bool = False,
        shrink_gradient: float = 1.0,
        window: int = 0,
        pivots: int = 0,
    ):
        super().__init__(grid, codebook_size)
        self.layout = Layout(codebook_size, pieces, text_length)
        self.text_drop_prob, self.shrink_gradient = text_drop_prob, shrink_gradient
        self.window, self.pivots = window, pivots
        self.embed = nn.Embedding(self.layout.size, width)
        self.place_of_text_PD = nn.Parameter(torch.zeros(self.layout.n_prefix, width))  # counted from [ROI1]
        self.make_blocks(self.layout.n_prefix, width, depth, heads, dropout, rope_base, style, sandwich, pb_relax)
        bias = style != "modern"
        self.head = nn.Linear(width, codebook_size, bias=bias)
        self.text_head = nn.Linear(width, self.layout.size - codebook_size, bias=bias)
        self.initialise()
        nn.init.normal_(self.place_of_text_PD, std=0.02)
        for head in (self.head, self.text_head):
            nn.init.zeros_(head.weight)

    def shrunk(self, embedded: Tensor) -> Tensor:
        if self.shrink_gradient == 1:
            return embedded
        return embedded * self.shrink_gradient + embedded.detach() * (1 - self.shrink_gradient)


class PairedTransformer(TextAndImage):
    """Causal model of a text's pieces and then of an image's tokens."""

    @property
    def knows_null(self) -> bool:
        """Whether it was trained without a text too, as guidance needs it."""
        return self.text_drop_prob > 0

    def forward(self, tokens_BL: Tensor, text_BP: Tensor) -> Tensor:
        """Logits (B, L, V) of every image token given the text and those before it."""
        return self.outputs(tokens_BL, text_BP)[1]

    def outputs(self, tokens_BL: Tensor, text_BP: Tensor, pivot_BYQ: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(Logits of prefix tokens 1 … P - 1, (B, P - 1, W); of the image's tokens, (B, L, V))."""
        prefix_BPD, hidden_BP = self.prefix(text_BP)
        x_BTD = torch.cat([prefix_BPD, self.shrunk(self.embed(tokens_BL[:, :-1]))], 1)
        features_BTD = self.run(x_BTD, 0, sight=self.sight(len(text_BP), hidden_BP, pivot_BYQ))
        text_BPD, image_BLD = features_BTD[:, : self.n_prefix - 1], features_BTD[:, self.n_prefix - 1 :]
        return self.text_head(text_BPD), self.head(image_BLD)

    def prefix(self, text_BP: Tensor, level_B: Tensor | None = None, beta: float = 1.0) -> tuple[Tensor, Tensor]:
        """Of a text's numbers in the vocabulary (`Layout.prefix`): inputs (B, P, D), and which of them are padding."""
        hidden_BP = text_BP == self.layout.command("PAD")
        place_BP = (~hidden_BP).cumsum(1).sub(1).clamp(min=0)
        return self.shrunk(self.embed(text_BP)) + self.place_of_text_PD[place_BP], hidden_BP

    def null_prefix(self, batch: int) -> tuple[Tensor, Tensor]:
        """The prefix of an empty text."""
        return self.prefix(self.layout.prefix([[]] * batch).to(self.place_LD.device, non_blocking=True))

    def step(self, x_BSD: Tensor, cache: KVCache, order_BL: Tensor | None = None) -> Tensor:
        """Logits (B, V) of the image token after inputs `x_BSD`, which follow what `cache` holds."""
        return self.head(self.run(x_BSD, cache.length, cache, order_BL, cache.sight)[:, -1])
