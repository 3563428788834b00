"""Losses of stage 1: L1, perceptual, and a hinge GAN whose weight adapts (VQGAN, arXiv 2012.09841, equations 5 to 7).

B batch, H W pixels
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Features = Callable[[Tensor], Sequence[Tensor]]  # images (B, 3, H, W) in [-1, 1] → maps (B, C, h, w)


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    return 0.5 * (F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean())


def hinge_generator(fake: Tensor) -> Tensor:
    return -fake.float().mean()


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor) -> Tensor:
    """‖∇ reconstruction‖ / ‖∇ adversarial‖ at the decoder's last layer, at most 10⁴ (equation 7); no gradient."""
    reconstruction_grad = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)[0]
    adversarial_grad = torch.autograd.grad(adversarial, last_layer, retain_graph=True)[0]
    return (reconstruction_grad.norm() / (adversarial_grad.norm() + 1e-4)).clamp(max=1e4).detach()


def perceptual_distance(features: Features, image_BCHW: Tensor, other_BCHW: Tensor) -> Tensor:
    """Mean squared distance of unit-length feature vectors, averaged over maps (LPIPS, arXiv 1801.03924, unweighted).

    Gradients flow into `image_BCHW` only.
    """
    with torch.no_grad():
        wanted = features(other_BCHW)
    got = features(image_BCHW)
    distances = [
        (F.normalize(a.float(), dim=1) - F.normalize(b.float(), dim=1)).square().sum(1).mean()
        for a, b in zip(got, wanted, strict=True)
    ]
    return torch.stack(distances).mean()


def psnr(image_BHWC: Tensor, other_BHWC: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each pair of uint8 images, (B,) in dB; equal images count as 78 dB."""
    squares_B = (image_BHWC.float() - other_BHWC.float()).square().mean((1, 2, 3))
    return 10 * torch.log10(255**2 / squares_B.clamp(min=1e-3))
