"""A codebook that is a moving average of the vectors nearest to its codes (VQ-VAE, arXiv 1711.00937, appendix A.1).

B batch, L tokens, D code size, K codebook size
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from clipgen.tokenizer.quantize.nearest import NearestCode


class MovingAverage(NearestCode):
    """`NearestCode` without gradients to its codes: `learn` moves them, by `decay` a batch. CogView's tokenizer."""

    codes_are_averaged = True

    def __init__(
        self,
        channels: int,
        codebook_size: int,
        code_dim: int,
        commitment: float = 0.25,
        unit_codes: bool = True,
        decay: float = 0.99,
    ):
        super().__init__(channels, codebook_size, code_dim, commitment, unit_codes)
        self.decay = decay

    def _hold(self, codes_KD: Tensor) -> None:
        self.register_buffer("codebook", codes_KD)
        self.register_buffer("mean_counts_K", torch.ones(len(codes_KD)))
        self.register_buffer("mean_sums_KD", codes_KD.clone())

    def loss(self, vectors_BLD: Tensor, codes_BLD: Tensor) -> Tensor:
        commitment = F.mse_loss(vectors_BLD, codes_BLD.detach())
        return self.commitment * commitment * (vectors_BLD.shape[-1] if self.unit_codes else 1)

    @torch.no_grad()
    def learn(self, counts_K: Tensor, sums_KD: Tensor) -> None:
        self.mean_counts_K.lerp_(counts_K.float(), 1 - self.decay)
        self.mean_sums_KD.lerp_(sums_KD.float(), 1 - self.decay)
        total, K = self.mean_counts_K.sum(), self.codebook_size
        smoothed_K = (self.mean_counts_K + 1e-5) / (total + K * 1e-5) * total  # so that no unused code is divided by 0
        codes_KD = self.mean_sums_KD / smoothed_K[:, None]
        self.codebook.copy_(F.normalize(codes_KD, dim=-1) if self.unit_codes else codes_KD)

    def _place(self, which_K: Tensor, codes: Tensor) -> None:
        super()._place(which_K, codes)
        self.mean_counts_K[which_K] = 1.0
        self.mean_sums_KD[which_K] = self.codebook[which_K]
