"""What is done with the codes of a codebook, whatever quantizer they are from: search, clusters, mistakes, usage.

N vectors, D code size, K codebook size
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 1 << 24  # similarities held at once, so that K = 16,384 never needs an (N, K) matrix


def nearest_codes(vectors_ND: Tensor, codes_KD: Tensor, k: int = 1) -> Tensor:
    """Indices of the k codes at the least distance, nearest first, (N, k); float32 whatever autocast and TF32 say."""
    codes_KD = codes_KD.detach().float()
    half_squares_K = codes_KD.square().sum(-1) / 2  # |v − c|² / 2 = |v|² / 2 + |c|² / 2 − v·c
    with torch.autocast(vectors_ND.device.type, enabled=False), exact_products():
        found = []
        for chunk in vectors_ND.detach().float().split(max(1, CHUNK // len(codes_KD))):
            closeness = torch.addmm(-half_squares_K, chunk, codes_KD.T)
            found.append(closeness.argmax(-1, keepdim=True) if k == 1 else closeness.topk(k).indices)
        return torch.cat(found)


@contextmanager
def exact_products() -> Iterator[None]:
    """Without TF32, whose ten bits are too few to tell near codes apart: a picture has one list of tokens."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def occurrences(tokens: Tensor, codebook_size: int) -> Tensor:
    """How often each code occurs, (K,); torch.bincount would make a GPU wait until the largest token is known."""
    counts_K = torch.zeros(codebook_size, dtype=torch.long, device=tokens.device)
    return counts_K.scatter_add_(0, tokens.flatten(), torch.ones_like(tokens.flatten()))


def clusters(codes_KD: Tensor, n: int, rounds: int = 20) -> Tensor:
    """Which of n clusters each code is in, (K,): k-means, begun with n codes that lie far apart.

    No random number is drawn. Where fewer than n codes differ, some clusters are empty.
    """
    codes_KD = codes_KD.detach().float()
    centre_ND = codes_KD[:1]
    least_K = codes_KD.new_full((len(codes_KD),), float("inf"))
    while len(centre_ND) < n:  # the code that is farthest from all so far
        least_K = torch.minimum(least_K, (codes_KD - centre_ND[-1]).square().sum(1))
        centre_ND = torch.cat([centre_ND, codes_KD[least_K.argmax()][None]])
    for _ in range(rounds):
        cluster_K = nearest_codes(codes_KD, centre_ND)[:, 0]
        size_N1 = occurrences(cluster_K, n)[:, None]
        mean_ND = torch.zeros_like(centre_ND).index_add_(0, cluster_K, codes_KD) / size_N1
        centre_ND = torch.where(size_N1 > 0, mean_ND, centre_ND)
    return nearest_codes(codes_KD, centre_ND)[:, 0]


class Perturbation(NamedTuple):
    """Mistakes to train the decoder on (RobustTok, arXiv 2503.08354): it will be given some by the Transformer.

    In the first `share` of the pictures of a batch (of each part that a device works off at once, and one at least)
    each token becomes, with probability `prob`, one of the `neighbours` codes nearest to the encoder's vector.
    """

    share: float
    prob: float
    neighbours: int

    def __call__(self, tokens_BL: Tensor, vectors_BLD: Tensor, codes_KD: Tensor) -> Tensor:
        """Tokens (B, L), some of them replaced."""
        chosen = math.ceil(self.share * len(tokens_BL))
        if not chosen:
            return tokens_BL
        near_Nk = nearest_codes(vectors_BLD[:chosen].flatten(0, 1), codes_KD, min(self.neighbours, len(codes_KD)))
        pick_N1 = torch.randint(near_Nk.shape[1], (len(near_Nk), 1), device=near_Nk.device)
        other_BL = near_Nk.gather(1, pick_N1).view(chosen, -1)
        replaced_BL = torch.rand(other_BL.shape, device=other_BL.device) < self.prob
        return torch.cat([torch.where(replaced_BL, other_BL, tokens_BL[:chosen]), tokens_BL[chosen:]])


def usage(counts_K: Tensor) -> float:
    """Share of the codebook that occurs at all."""
    return float((counts_K > 0).float().mean())


def perplexity(counts_K: Tensor) -> float:
    """exp(entropy) of the code distribution: how many codes it is worth, from 1 to K."""
    p_K = counts_K.float() / counts_K.sum().clamp(min=1)
    return float(torch.exp(-(p_K * torch.log(p_K.clamp(min=1e-12))).sum()))
