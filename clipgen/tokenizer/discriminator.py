"""The PatchGAN discriminator of VQGAN (pix2pix, arXiv 1611.07004), taming-transformers' module."""

from taming.modules.discriminator.model import NLayerDiscriminator, weights_init
from torch import nn


def patch_gan(layers: int, channels: int) -> nn.Module:
    """Images (B, 3, H, W) in [-1, 1] → one logit a patch, (B, 1, h, w); BatchNorm, so the batch must exceed 1."""
    return NLayerDiscriminator(input_nc=3, n_layers=layers, ndf=channels).apply(weights_init)
