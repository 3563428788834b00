"""Pictures through a tokenizer and back.

B batch, H W pixels, h w token grid
"""

import torch
from torch import Tensor

from clipgen.data.transforms import to_model_range, to_uint8
from clipgen.tokenizer.vqgan import VQGAN


@torch.no_grad()
def reconstruct(vqgan: VQGAN, image_BHWC: Tensor) -> tuple[Tensor, Tensor]:
    """(tokens (B, h, w), reconstructions uint8 (B, H, W, 3) on the CPU) of uint8 images."""
    image_BCHW = to_model_range(image_BHWC.to(vqgan.last_layer.device)).contiguous(memory_format=torch.channels_last)
    tokens_Bhw = vqgan.encode(image_BCHW)
    return tokens_Bhw, to_uint8(vqgan.decode(tokens_Bhw)).cpu()
