"""The PatchGAN adversary of VQGAN (pix2pix, arXiv 1611.07004) on taming-transformers' discriminator.

B batch, H W pixels, h w patches
"""

import math

import torch
import torch.nn.functional as F
from taming.modules.discriminator.model import NLayerDiscriminator, weights_init
from torch import Tensor, nn

from clipgen.tokenizer.norm import GroupNorm

NORM_GROUPS = 32


class Adversary(nn.Module):
    """Hinge losses of a discriminator (arXiv 1705.02894), regularised by `lecam` (arXiv 2104.03310, equation 6).

    `norm=group` does not mix the pictures of a batch and works for any size of it; `batch` is taming's.
    """

    def __init__(self, layers: int, channels: int, norm: str = "group", lecam: float = 0.0):
        super().__init__()
        self.discriminator = NLayerDiscriminator(input_nc=3, n_layers=layers, ndf=channels).apply(weights_init)
        if norm == "group":
            _replace_batch_norms(self.discriminator)
        self.lecam = lecam
        self.register_buffer("mean_logits", torch.zeros(2))  # moving averages over real and made pictures

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """One logit a patch, (B, 1, h, w), for images in [-1, 1]."""
        return self.discriminator(image_BCHW)

    def generator_loss(self, made_BCHW: Tensor) -> Tensor:
        return -self(made_BCHW).float().mean()

    def discriminator_loss(self, image_BCHW: Tensor, made_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """(Loss, mean logit of real and of made pictures (2,))."""
        real, made = self(image_BCHW).float(), self(made_BCHW).float()
        loss = hinge(real, made)
        if self.lecam:
            mean_real, mean_made = self.mean_logits
            loss = loss + self.lecam * (F.relu(real - mean_made).square() + F.relu(mean_real - made).square()).mean()
        return loss, torch.stack([real.mean(), made.mean()]).detach()

    @torch.no_grad()
    def remember(self, mean_logits: Tensor, decay: float = 0.99) -> None:
        """Move the averages that `lecam` compares with."""
        self.mean_logits.lerp_(mean_logits, 1 - decay)


def hinge(real: Tensor, made: Tensor) -> Tensor:
    """Hinge loss of a discriminator's logits."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + made).mean())


def _replace_batch_norms(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            groups = math.gcd(NORM_GROUPS, max(1, child.num_features // 4))
            norm = GroupNorm(groups, child.num_features)
            norm.load_state_dict({"weight": child.weight, "bias": child.bias})
            setattr(module, name, norm)
        elif isinstance(child, nn.LeakyReLU):
            child.inplace = False  # our norm's output is a view
        else:
            _replace_batch_norms(child)
