"""The nearest code of a learned codebook (VQ-VAE, arXiv 1711.00937), as such or on the unit sphere.

B batch, L tokens, D code size, K codebook size, N vectors
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipgen.tokenizer.codes import Perturbation, nearest_codes
from clipgen.tokenizer.quantize.base import Quantizer


class NearestCode(Quantizer):
    """Trained by equation 3 of VQ-VAE: the code moves to its vectors, and the vectors commit themselves to it.

    `unit_codes` puts vectors and codes on the unit sphere, where few dimensions do (ViT-VQGAN, arXiv 2110.04627;
    LlamaGen, arXiv 2406.06525); the loss is then the squared distance, else its mean over dimensions. `commitment`
    weighs the term that moves the encoder; with `legacy` it weighs the other one, as taming-transformers has it.
    """

    codes_are_drawn = True
    remedy = (
        "tokenizer.train.restart_dead=true, tokenizer.train.continuous_steps=100, tokenizer.unit_codes=true with "
        "tokenizer.code_dim=8, or a smaller tokenizer.codebook_size"
    )

    def __init__(
        self,
        channels: int,
        codebook_size: int,
        code_dim: int,
        commitment: float = 0.25,
        unit_codes: bool = True,
        legacy: bool = False,
    ):
        super().__init__(channels, codebook_size, code_dim)
        self.commitment, self.unit_codes, self.legacy = commitment, unit_codes, legacy
        if unit_codes:
            codes_KD = F.normalize(torch.randn(codebook_size, code_dim), dim=-1)
        else:
            codes_KD = torch.empty(codebook_size, code_dim).uniform_(-1 / codebook_size, 1 / codebook_size)
        self._hold(codes_KD)

    def _hold(self, codes_KD: Tensor) -> None:
        self.codebook = nn.Parameter(codes_KD)

    @property
    def codes_KD(self) -> Tensor:
        return F.normalize(self.codebook.float(), dim=-1) if self.unit_codes else self.codebook.float()

    def prepare(self, vectors_BDhw: Tensor) -> Tensor:
        return F.normalize(vectors_BDhw.float(), dim=1) if self.unit_codes else vectors_BDhw.float()

    def quantise(self, vectors_BLD: Tensor, perturbation: Perturbation | None) -> tuple[Tensor, Tensor, Tensor]:
        codes_KD = self.codes_KD
        tokens_BL = nearest_codes(vectors_BLD.flatten(0, 1), codes_KD).view(vectors_BLD.shape[:2])
        codes_BLD = codes_KD[tokens_BL]
        loss = self.loss(vectors_BLD, codes_BLD)
        if perturbation is not None:
            codes_BLD = codes_KD[perturbation(tokens_BL, vectors_BLD, codes_KD)]
        return vectors_BLD + (codes_BLD - vectors_BLD).detach(), tokens_BL, loss

    def loss(self, vectors_BLD: Tensor, codes_BLD: Tensor) -> Tensor:
        codebook = F.mse_loss(codes_BLD, vectors_BLD.detach())
        commitment = F.mse_loss(vectors_BLD, codes_BLD.detach())
        if self.legacy:
            codebook, commitment = commitment, codebook
        return (codebook + self.commitment * commitment) * (vectors_BLD.shape[-1] if self.unit_codes else 1)

    @torch.no_grad()
    def start_from(self, vectors_ND: Tensor) -> None:
        self._place(torch.ones_like(self.used_K, dtype=torch.bool), self._draw(vectors_ND, self.codebook_size))

    @torch.no_grad()
    def restart_dead(self, vectors_ND: Tensor) -> int:
        dead_K = self.used_K == 0
        if count := int(dead_K.sum()):
            self._place(dead_K, self._draw(vectors_ND, count))
        return count

    def _draw(self, vectors_ND: Tensor, count: int) -> Tensor:
        """Vectors, each once where there are enough, a little aside, as of equal codes one would never be used."""
        N = len(vectors_ND)
        order = torch.randperm(N, device=vectors_ND.device)
        picks = order[:count] if count <= N else torch.randint(N, (count,), device=vectors_ND.device)
        length = vectors_ND.square().sum(-1).mean().sqrt()
        return vectors_ND[picks] + 0.01 * length * torch.randn_like(vectors_ND[picks])

    def _place(self, which_K: Tensor, codes: Tensor) -> None:
        self.codebook[which_K] = F.normalize(codes, dim=-1) if self.unit_codes else codes
        self.drawn_K = which_K
