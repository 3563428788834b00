"""How a codebook is kept alive from batch to batch, over all ranks: drawn, averaged, counted, drawn again.

B pictures, L tokens of a picture, N = B·L, D code size, K codebook size
"""

import torch
from torch import Tensor

from clipgen.ranks import gather_pictures, sum_over_ranks
from clipgen.schedule import seed_batch
from clipgen.tokenizer.codes import occurrences, perplexity, usage
from clipgen.tokenizer.quantize import Quantizer


def start_codebook(quantizer: Quantizer, tokens_BL: Tensor, vectors_ND: Tensor, seed: int, batch: int) -> None:
    """Draw the codes from the vectors of all ranks in this batch, where the kind draws its codes."""
    if quantizer.codes_are_drawn:
        quantizer.start_from(_of_all_ranks(tokens_BL, vectors_ND, seed, batch))


def tend_codebook(quantizer: Quantizer, tokens_BL: Tensor, vectors_ND: Tensor) -> None:
    """Count what a batch used, and move the codes where the kind wants that."""
    counts_K = sum_over_ranks(occurrences(tokens_BL, quantizer.codebook_size))
    quantizer.count(counts_K)
    if quantizer.codes_are_averaged:
        sums_KD = torch.zeros_like(quantizer.codebook).index_add_(0, tokens_BL.flatten(), vectors_ND)
        quantizer.learn(counts_K, sum_over_ranks(sums_KD))


def end_window(
    quantizer: Quantizer, tokens_BL: Tensor, vectors_ND: Tensor, seed: int, batch: int, restart: bool
) -> dict[str, float]:
    """What the window used; with `restart` its dead codes are drawn again from the vectors of this batch."""
    found = {"usage": usage(quantizer.used_K), "perplexity": perplexity(quantizer.used_K), "restarted_codes": 0.0}
    if restart and quantizer.codes_are_drawn:
        dead = quantizer.restart_dead(_of_all_ranks(tokens_BL, vectors_ND, seed, batch))
        found["restarted_codes"] = float(dead)
    quantizer.used_K.zero_()
    return found


def _of_all_ranks(tokens_BL: Tensor, vectors_ND: Tensor, seed: int, batch: int) -> Tensor:
    seed_batch(seed, batch)  # all ranks are to draw the same
    return gather_pictures(vectors_ND.view(*tokens_BL.shape, -1)).flatten(0, 1)
