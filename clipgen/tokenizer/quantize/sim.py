"""SimVQ (arXiv 2411.02038): a frozen random codebook seen through one learned linear map, so that no code dies alone.

D code size, K codebook size
"""

import torch
from torch import Tensor, nn

from clipgen.tokenizer.quantize.nearest import NearestCode


class SimVQ(NearestCode):
    """`NearestCode` of the codes that a learned matrix makes of fixed ones."""

    codes_are_drawn = False
    remedy = "a smaller tokenizer.codebook_size, or tokenizer.quantizer=nearest, whose codes are restarted"

    def __init__(self, channels: int, codebook_size: int, code_dim: int, commitment: float = 0.25):
        super().__init__(channels, codebook_size, code_dim, commitment, unit_codes=False)
        self.transform = nn.Linear(code_dim, code_dim, bias=False)

    def _hold(self, codes_KD: Tensor) -> None:
        self.register_buffer("codebook", torch.randn_like(codes_KD) * codes_KD.shape[1] ** -0.5)

    @property
    def codes_KD(self) -> Tensor:
        with torch.autocast(self.codebook.device.type, enabled=False):
            return self.transform(self.codebook.float())
