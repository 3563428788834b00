"""CogView's Transformer with the order swapped: image, then text (arXiv 2105.13290, section 3.3; layout.py).

B batch, L image tokens, S tokens of a caption ([ROI1], text, [BASE], padding), T = L + S + 2 inputs, D width,
W pieces and commands
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from clipgen.paired.loss import means_of_rows
from clipgen.paired.model import TextAndImage
from clipgen.paired.text import UNKNOWN
from clipgen.transformer.loss import token_losses
from clipgen.transformer.sampling import choices, draw

BEFORE = 2  # [BASE] and [BOI1] stand before the image


class CaptionTransformer(TextAndImage):
    """Causal model of the pieces of an image's caption; the image itself is given.

    An image's tokens have the places and turns that they have after a text, the text's the places that they have
    before an image.
    """

    def make_blocks(self, *arguments) -> None:
        super().make_blocks(*arguments)
        around = self.n_prefix - BEFORE  # of the inputs only those of the image turn
        behind = self.layout.text_length + 2
        self.cos_TK = F.pad(self.cos_TK[around:], (0, 0, 0, behind), value=1.0)
        self.sin_TK = F.pad(self.sin_TK[around:], (0, 0, 0, behind))

    def forward(self, tokens_BL: Tensor, text_BS: Tensor) -> Tensor:
        """Logits (B, S - 1, W) of every token of a caption (`Layout.captions`) after the first, which is [ROI1]."""
        return self.outputs(tokens_BL, text_BS)

    def outputs(self, tokens_BL: Tensor, text_BS: Tensor) -> Tensor:
        x_BTD = torch.cat([self.image(tokens_BL), self.text(text_BS[:, :-1])], 1)
        return self.text_head(self.run(x_BTD, 0)[:, 1 - text_BS.shape[1] :])

    def image(self, tokens_BL: Tensor) -> Tensor:
        """The inputs (B, L + 3, D) of `[BASE] [BOI1] image [EOI1]`."""
        commands = (self.layout.command(name) for name in ("BASE", "BOI1", "EOI1"))
        base_B1, begin_B1, end_B1 = (tokens_BL.new_full((len(tokens_BL), 1), each) for each in commands)
        x_BTD = self.shrunk(self.embed(torch.cat([base_B1, begin_B1, tokens_BL, end_B1], 1)))
        places_TD = F.pad(self.place_of_text_PD[1:3], (0, 0, 0, x_BTD.shape[1] - 2))  # as behind an empty text
        return x_BTD + places_TD

    def text(self, text_BS: Tensor, first: int = 0) -> Tensor:
        """The inputs (B, S, D) of tokens first, first + 1, … of a caption."""
        return self.shrunk(self.embed(text_BS)) + self.place_of_text_PD[first : first + text_BS.shape[1]]

    def step(self, x_BSD: Tensor, cache) -> Tensor:
        """Logits (B, W) of the piece after inputs `x_BSD`, which follow what `cache` holds."""
        return self.text_head(self.run(x_BSD, cache.length, cache)[:, -1])

    def _positions(self, start: int, stop: int, order_BL: None) -> tuple[Tensor, Tensor, Tensor]:
        """As after a text: [BOI1] has the place of the first image token; the inputs behind the image have none."""
        places_TD = F.pad(self.place_LD, (0, 0, BEFORE - 1, len(self.cos_TK) - self.n_tokens - BEFORE + 1))
        return places_TD[start:stop], self.cos_TK[start:stop], self.sin_TK[start:stop]


@torch.inference_mode()
def write(
    model: CaptionTransformer,
    tokens_BL: Tensor,
    seeds: Sequence[int],
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> list[list[int]]:
    """The pieces of a caption of each image, one at least; caption i depends on `seeds[i]` and on no other image.

    At temperature 0 each piece is the likeliest one. An unknown piece is never written.
    """
    layout, B = model.layout, len(tokens_BL)
    S, base, first = layout.text_length, layout.command("BASE"), layout.command("ROI1")
    uniform_BS = torch.stack([torch.rand(S, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    uniform_SB = uniform_BS.double().t().contiguous().to(tokens_BL.device, non_blocking=True)
    never = [UNKNOWN, *(i for i in range(layout.pieces, layout.size - layout.codebook_size))]
    end = base - layout.codebook_size
    cache = model.new_cache(B)
    begin_B1 = tokens_BL.new_full((B, 1), first)
    x_BSD = torch.cat([model.image(tokens_BL), model.text(begin_B1)], 1)
    written_BS = tokens_BL.new_full((B, S), end)
    ended_B = torch.zeros(B, dtype=torch.bool, device=tokens_BL.device)
    for place in range(S):
        logits_BW = model.step(x_BSD, cache).float()
        forbidden = never if place == 0 else [i for i in never if i != end]
        logits_BW[:, forbidden] = float("-inf")
        p_BC, code_BC = choices(logits_BW, temperature, top_k, top_p, 0.0)
        piece_B = code_BC.gather(1, draw(p_BC, uniform_SB[place])[:, None])[:, 0]
        ended_B |= piece_B == end
        if ended_B.all():
            break
        written_BS[:, place] = piece_B.where(~ended_B, end)
        x_BSD = model.text(layout.codebook_size + piece_B[:, None], place + 1)
    return [[piece for piece in row if piece != end] for row in written_BS.tolist()]


@torch.inference_mode()
def caption_losses(model: CaptionTransformer, tokens_BL: Tensor, text_BS: Tensor) -> Tensor:
    """CapLoss (CogView, section 2.3): the mean cross-entropy of a caption's pieces given the image, (B,) in nats.

    [BASE], which ends it, is not among them: where a caption stops says little of the image.
    """
    losses_BT = token_losses(model(tokens_BL, text_BS), text_BS[:, 1:] - model.layout.codebook_size)
    pad, base = model.layout.command("PAD"), model.layout.command("BASE")
    return means_of_rows(losses_BT, (text_BS[:, 1:] != pad) & (text_BS[:, 1:] != base))
