"""CogView's sequence (arXiv 2105.13290, section 2.2): `[ROI1] text [BASE] [BOI1] image [EOI1]` in one vocabulary.

Texts differ in length; padding stands on the left, so that an image's tokens have the same places in every row.
`[EOI1]` has its number, but no model is asked for it: where an image ends is known.

For captions text and image change places (section 3.3): `[BASE] [BOI1] image [EOI1] [ROI1] text`, as the released code
has it (generate_samples.py, image2text). There a caption has a fixed length; here `[BASE]` ends it, as it ends a text
before an image, and padding stands behind it, where nothing looks.

B batch, P prefix tokens: text_length + 3, S a caption's tokens: text_length + 2
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

COMMANDS = ("PAD", "ROI1", "BASE", "BOI1", "EOI1")
AROUND = 3  # ROI1, BASE and BOI1 stand around a text


@dataclass(frozen=True)
class Layout:
    """The vocabulary is the image codes, then the text's pieces, then the commands, as CogView's."""

    codebook_size: int
    pieces: int
    text_length: int  # pieces; what goes beyond is cut

    @property
    def size(self) -> int:
        return self.codebook_size + self.pieces + len(COMMANDS)

    def command(self, name: str) -> int:
        """The number of one of COMMANDS."""
        return self.codebook_size + self.pieces + COMMANDS.index(name)

    @property
    def n_prefix(self) -> int:
        return self.text_length + AROUND

    def prefix(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """(B, P): `[PAD] … [ROI1] text [BASE] [BOI1]` of each text's pieces; of no pieces it is the null."""
        pad, first, base, begin = (self.command(name) for name in ("PAD", "ROI1", "BASE", "BOI1"))
        text_BP = torch.full((len(texts), self.n_prefix), pad)
        for row_P, pieces in zip(text_BP, texts, strict=True):
            own = [first, *(self.codebook_size + piece for piece in pieces[: self.text_length]), base, begin]
            row_P[self.n_prefix - len(own) :] = torch.tensor(own)
        return text_BP

    def captions(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """(B, S): `[ROI1] text [BASE] [PAD] …` of each text's pieces, to stand behind an image."""
        pad, first, base = (self.command(name) for name in ("PAD", "ROI1", "BASE"))
        text_BS = torch.full((len(texts), self.text_length + 2), pad)
        for row_S, pieces in zip(text_BS, texts, strict=True):
            own = [first, *(self.codebook_size + piece for piece in pieces[: self.text_length]), base]
            row_S[: len(own)] = torch.tensor(own)
        return text_BS
