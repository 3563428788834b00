"""FSQ (arXiv 2309.15505): each dimension rounded to a few levels; the codebook is their grid and learns nothing.

B batch, L tokens, D code size = number of dimensions, K codebook size
"""

from collections.abc import Sequence

from torch import Tensor

from clipgen.tokenizer.codes import Perturbation
from clipgen.tokenizer.quantize.base import Quantizer


class FiniteScalar(Quantizer):
    """vector-quantize-pytorch's FSQ. `levels` are those of each dimension; their product is the codebook's size."""

    remedy = "fewer tokenizer.levels, or smaller ones"

    def __init__(self, channels: int, levels: Sequence[int]):
        from vector_quantize_pytorch import FSQ  # takes a second to import

        grid = FSQ(list(levels))
        super().__init__(channels, grid.codebook_size, len(levels))
        self.grid = grid

    @property
    def codes_KD(self) -> Tensor:
        return self.grid.implicit_codebook

    def quantise(self, vectors_BLD: Tensor, perturbation: Perturbation | None) -> tuple[Tensor, Tensor, Tensor]:
        assert perturbation is None, "it has no nearest codes"
        codes_BLD, tokens_BL = self.grid(vectors_BLD)
        return codes_BLD, tokens_BL.long(), vectors_BLD.sum() * 0
