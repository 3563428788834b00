"""What all quantizers share: projections around the codes, and how a codebook is counted, started and kept alive.

B batch, C channels of the encoder's output, D code size, K codebook size, h w token grid, L = h·w, N = B·L vectors
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from clipgen.tokenizer.codes import Perturbation


class Quantized(NamedTuple):
    z_BChw: Tensor  # what the decoder gets; gradients pass to the encoder
    tokens_Bhw: Tensor
    loss: Tensor
    vectors_ND: Tensor  # what was quantised, detached; codes are drawn from these


class Quantizer(nn.Module, ABC):
    """Vectors → codes → vectors. A kind says how: `prepare`, `quantise` and `codes_KD`.

    `codes_are_drawn` says whether `start_from` and `restart_dead` mean something for the kind, `codes_are_averaged`
    whether it wants `learn` after each batch. `drawn_K` says which codes are new since the last `count`, if any.
    `remedy` names what settings of the kind help where few of its codes are in use.
    """

    codes_are_drawn = False
    codes_are_averaged = False
    remedy = "a smaller tokenizer.codebook_size"

    def __init__(self, channels: int, codebook_size: int, code_dim: int):
        super().__init__()
        self.codebook_size = codebook_size
        self.project_in = nn.Conv2d(channels, code_dim, 1)
        self.project_out = nn.Conv2d(code_dim, channels, 1)
        self.register_buffer("used_K", torch.zeros(codebook_size))  # how often, since the window began
        self.drawn_K: Tensor | None = None

    @property
    @abstractmethod
    def codes_KD(self) -> Tensor:
        """The codes as the decoder's projection gets them."""

    def prepare(self, vectors_BDhw: Tensor) -> Tensor:
        """Float32 vectors in the space of the codes."""
        return vectors_BDhw.float()

    @abstractmethod
    def quantise(self, vectors_BLD: Tensor, perturbation: Perturbation | None) -> tuple[Tensor, Tensor, Tensor]:
        """(Codes (B, L, D) with gradients to the vectors, tokens (B, L), loss)."""

    def forward(self, z_BChw: Tensor, quantise: bool = True, perturbation: Perturbation | None = None) -> Quantized:
        """With `quantise` off the vectors pass as they are: the first batches, before there is a codebook."""
        vectors_BDhw = self.prepare(self.project_in(z_BChw))
        B, D, h, w = vectors_BDhw.shape
        vectors_BLD = vectors_BDhw.flatten(2).transpose(1, 2)
        vectors_ND = vectors_BLD.detach().reshape(-1, D)
        if not quantise:
            tokens_Bhw = torch.zeros(B, h, w, dtype=torch.long, device=z_BChw.device)
            return Quantized(self.project_out(vectors_BDhw), tokens_Bhw, vectors_BDhw.sum() * 0, vectors_ND)
        codes_BLD, tokens_BL, loss = self.quantise(vectors_BLD, perturbation)
        codes_BDhw = codes_BLD.transpose(1, 2).reshape(B, D, h, w)
        return Quantized(self.project_out(codes_BDhw), tokens_BL.reshape(B, h, w), loss, vectors_ND)

    def lookup(self, tokens_Bhw: Tensor) -> Tensor:
        """The decoder's input for given tokens, (B, C, h, w)."""
        return self.project_out(self.codes_KD[tokens_Bhw].permute(0, 3, 1, 2))

    def blend(self, p_BhwK: Tensor) -> Tensor:
        """The decoder's input for the mean code at each place, (B, C, h, w), with gradients to `p_BhwK`."""
        return self.project_out((p_BhwK.float() @ self.codes_KD).permute(0, 3, 1, 2))

    @torch.no_grad()
    def count(self, counts_K: Tensor) -> None:
        """Add how often a batch used each code to the window."""
        self.used_K += counts_K
        self.drawn_K = None

    def learn(self, counts_K: Tensor, sums_KD: Tensor) -> None:
        """Move the codes by how often a batch used each, and the sum of the vectors that were nearest to it."""

    def start_from(self, vectors_ND: Tensor) -> None:
        """Draw the whole codebook from the encoder's outputs: a random one collapses to a handful of codes."""

    def restart_dead(self, vectors_ND: Tensor) -> int:
        """Draw again the codes that this window never used, and say how many there were."""
        return 0
