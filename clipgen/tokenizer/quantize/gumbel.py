"""A code drawn by Gumbel softmax (arXiv 1611.01144), as DALL-E and taming-transformers' f8 tokenizer do.

B batch, L tokens, D code size, K codebook size
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipgen.tokenizer.codes import Perturbation
from clipgen.tokenizer.quantize.base import Quantizer


class Gumbel(Quantizer):
    """In training a one-hot sample with the gradient of the soft one at `temperature`; else the likeliest code.

    The loss is `kl_weight` times the divergence of the code distribution from the uniform one.
    """

    remedy = (
        "a larger tokenizer.kl_weight, a larger second number of tokenizer.train.gumbel_temperature, a smaller "
        "tokenizer.codebook_size, or tokenizer.quantizer=nearest, whose codes are restarted"
    )

    def __init__(self, channels: int, codebook_size: int, code_dim: int, kl_weight: float = 5e-4):
        super().__init__(channels, codebook_size, code_dim)
        self.kl_weight = kl_weight
        self.temperature = 1.0  # the training lowers it
        self.logits = nn.Linear(code_dim, codebook_size)
        self.codebook = nn.Parameter(torch.randn(codebook_size, code_dim))

    @property
    def codes_KD(self) -> Tensor:
        return self.codebook.float()

    def quantise(self, vectors_BLD: Tensor, perturbation: Perturbation | None) -> tuple[Tensor, Tensor, Tensor]:
        assert perturbation is None, "its codes are drawn, and have no nearest ones"
        with torch.autocast(vectors_BLD.device.type, enabled=False):
            logits_BLK = self.logits(vectors_BLD.float())
            log_q_BLK = logits_BLK.log_softmax(-1)
            divergence_BL = (log_q_BLK.exp() * log_q_BLK).sum(-1) + torch.tensor(self.codebook_size).log()
            loss = self.kl_weight * divergence_BL.mean()
            if not self.training:
                tokens_BL = logits_BLK.argmax(-1)
                return self.codes_KD[tokens_BL], tokens_BL, loss
            drawn_BLK = F.gumbel_softmax(logits_BLK, self.temperature, hard=True)
            return drawn_BLK @ self.codes_KD, drawn_BLK.argmax(-1), loss
