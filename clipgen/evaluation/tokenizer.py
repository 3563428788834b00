"""How well a tokenizer gives images back: PSNR, and how much of its codebook is in use.

B batch, K codebook size
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from clipgen.data.transforms import to_model_range, to_uint8
from clipgen.tokenizer.codes import perplexity, usage
from clipgen.tokenizer.loss import psnr
from clipgen.tokenizer.vqgan import VQGAN


@torch.no_grad()
def reconstruction(vqgan: VQGAN, batches: Iterable[dict[str, Tensor]]) -> dict[str, float]:
    """vqgan.psnr (mean over images), vqgan.usage and vqgan.perplexity over all tokens of the images."""
    device = vqgan.last_layer.device
    counts_K = torch.zeros(vqgan.quantizer.codebook_size, device=device)
    values = []
    for batch in batches:
        tokens_Bhw, made_BHWC = reconstruct(vqgan, batch["image"])
        counts_K += torch.bincount(tokens_Bhw.flatten(), minlength=len(counts_K))
        values.append(psnr(made_BHWC, batch["image"]))
    return {
        "vqgan.psnr": float(torch.cat(values).mean()),
        "vqgan.usage": usage(counts_K),
        "vqgan.perplexity": perplexity(counts_K),
    }


@torch.no_grad()
def reconstruct(vqgan: VQGAN, image_BHWC: Tensor) -> tuple[Tensor, Tensor]:
    """(tokens (B, h, w), reconstructions uint8 (B, H, W, 3) on the CPU) of uint8 images."""
    image_BCHW = to_model_range(image_BHWC.to(vqgan.last_layer.device)).contiguous(memory_format=torch.channels_last)
    tokens_Bhw = vqgan.encode(image_BCHW)
    return tokens_Bhw, to_uint8(vqgan.decode(tokens_Bhw)).cpu()
