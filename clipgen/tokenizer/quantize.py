"""Vector quantisation with low-dimensional unit codes (ViT-VQGAN, arXiv 2110.04627; LlamaGen, arXiv 2406.06525).

B batch, C channels of the encoder's output, D code size, K codebook size, h w token grid, N = B·h·w vectors
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHUNK = 1 << 24  # similarities held at once, so that K = 16,384 never needs an (N, K) matrix


class Quantized(NamedTuple):
    z_BChw: Tensor  # what the decoder gets; gradients pass straight through to the encoder
    tokens_Bhw: Tensor
    loss: Tensor  # codebook term + commitment term
    vectors_ND: Tensor  # the encoder's unit vectors, detached; dead codes are drawn from these


class VectorQuantizer(nn.Module):
    """Nearest code on the unit sphere, trained by van den Oord et al. (arXiv 1711.00937), equation 3.

    `commitment` weighs the term that moves the encoder to its code (taming's default puts it on the other one).
    Codes that a window of batches did not use are restarted from vectors of the current batch.
    """

    def __init__(self, channels: int, codebook_size: int, code_dim: int, commitment: float = 0.25):
        super().__init__()
        self.codebook_size = codebook_size
        self.commitment = commitment
        self.project_in = nn.Conv2d(channels, code_dim, 1)
        self.project_out = nn.Conv2d(code_dim, channels, 1)
        self.codebook = nn.Parameter(F.normalize(torch.randn(codebook_size, code_dim), dim=-1))
        self.register_buffer("used_K", torch.zeros(codebook_size))  # how often, since the window began

    def forward(self, z_BChw: Tensor, quantise: bool = True) -> Quantized:
        """With `quantise` off the unit vectors pass as they are: the first batches, before there is a codebook."""
        vectors_BDhw = F.normalize(self.project_in(z_BChw).float(), dim=1)
        B, D, h, w = vectors_BDhw.shape
        vectors_ND = vectors_BDhw.permute(0, 2, 3, 1).reshape(-1, D)
        if not quantise:
            tokens = torch.zeros(B, h, w, dtype=torch.long, device=z_BChw.device)
            return Quantized(self.project_out(vectors_BDhw), tokens, vectors_ND.sum() * 0, vectors_ND.detach())
        tokens_N = self.nearest(vectors_ND.detach())
        codes_ND = F.normalize(self.codebook.float(), dim=-1)[tokens_N]
        loss = F.mse_loss(codes_ND, vectors_ND.detach()) + self.commitment * F.mse_loss(vectors_ND, codes_ND.detach())
        passed_ND = vectors_ND + (codes_ND - vectors_ND).detach()
        passed_BDhw = passed_ND.reshape(B, h, w, D).permute(0, 3, 1, 2)
        return Quantized(self.project_out(passed_BDhw), tokens_N.reshape(B, h, w), loss * D, vectors_ND.detach())

    def nearest(self, vectors_ND: Tensor) -> Tensor:
        """Index of the most similar code for each unit vector, (N,); float32 whatever autocast says."""
        with torch.autocast(vectors_ND.device.type, enabled=False):
            codes_DK = F.normalize(self.codebook.float(), dim=-1).T
            rows = max(1, CHUNK // self.codebook_size)
            return torch.cat([(chunk @ codes_DK).argmax(-1) for chunk in vectors_ND.float().split(rows)])

    def lookup(self, tokens_Bhw: Tensor) -> Tensor:
        """The decoder's input for given tokens, (B, C, h, w)."""
        codes_BhwD = F.normalize(self.codebook.float(), dim=-1)[tokens_Bhw]
        return self.project_out(codes_BhwD.permute(0, 3, 1, 2))

    @torch.no_grad()
    def count(self, tokens_Bhw: Tensor) -> None:
        self.used_K += torch.bincount(tokens_Bhw.flatten(), minlength=self.codebook_size)

    @torch.no_grad()
    def start_from(self, vectors_ND: Tensor) -> None:
        """Draw the whole codebook from the encoder's outputs: a random one collapses to a handful of codes."""
        picks = torch.randint(len(vectors_ND), (self.codebook_size,), device=vectors_ND.device)
        noise = 0.01 * torch.randn_like(self.codebook)
        self.codebook.copy_(F.normalize(vectors_ND[picks] + noise, dim=-1))
        self.used_K.zero_()

    @torch.no_grad()
    def restart_dead(self, vectors_ND: Tensor) -> int:
        """Replace the codes this window never used, begin a new window, and say how many there were."""
        dead_K = self.used_K == 0
        count = int(dead_K.sum())
        if count:
            picks = torch.randint(len(vectors_ND), (count,), device=vectors_ND.device)
            self.codebook[dead_K] = vectors_ND[picks]
        self.used_K.zero_()
        return count


def usage(counts_K: Tensor) -> float:
    """Share of the codebook that occurs at all."""
    return float((counts_K > 0).float().mean())


def perplexity(counts_K: Tensor) -> float:
    """exp(entropy) of the code distribution: how many codes it is worth, from 1 to K."""
    p_K = counts_K.float() / counts_K.sum().clamp(min=1)
    return float(torch.exp(-(p_K * torch.log(p_K.clamp(min=1e-12))).sum()))
