"""Losses of stage 1 between a picture and its reconstruction (VQGAN, arXiv 2012.09841, equations 5 to 7).

B batch, H W pixels
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Features = Callable[[Tensor], Sequence[Tensor]]  # images (B, 3, H, W) in [-1, 1] → maps (B, C, h, w)


def pixel_distance(image_BCHW: Tensor, other_BCHW: Tensor, kind: str) -> Tensor:
    """Mean absolute (`l1`) or squared (`l2`) difference, in float32."""
    difference = image_BCHW.float() - other_BCHW
    return difference.abs().mean() if kind == "l1" else difference.square().mean()


def perceptual_distance(
    features: Features, image_BCHW: Tensor, other_BCHW: Tensor, weights: Sequence[Tensor] | None = None
) -> Tensor:
    """Squared distance of unit-length feature vectors, weighted by channel, summed over maps (LPIPS, arXiv 1801.03924).

    Without `weights` (C,) of every map all channels count alike, and the maps are averaged. Taken in float32; gradients
    flow into `image_BCHW` only.
    """
    with torch.no_grad():
        wanted = features(other_BCHW)
    got = features(image_BCHW)
    distance = 0.0
    for i, (a, b) in enumerate(zip(got, wanted, strict=True)):
        squares_C = (F.normalize(a.float(), dim=1) - F.normalize(b.float(), dim=1)).square().mean((0, 2, 3))
        distance = distance + (squares_C.sum() / len(got) if weights is None else (squares_C * weights[i]).sum())
    return distance


def adaptive_weight(
    reconstruction: Tensor,
    adversarial: Tensor,
    last_layer: Tensor,
    over_ranks: Callable[[Tensor], Tensor] = lambda tensor: tensor,
) -> Tensor:
    """‖∇ reconstruction‖ / ‖∇ adversarial‖ at the decoder's last layer, at most 10⁴ (equation 7); no gradient.

    `over_ranks` takes the mean of a gradient over ranks, so that all of them weigh alike.
    """
    grads = [torch.autograd.grad(loss, last_layer, retain_graph=True)[0] for loss in (reconstruction, adversarial)]
    of_image, of_adversary = (over_ranks(grad.float()).norm() for grad in grads)
    return (of_image / (of_adversary + 1e-4)).clamp(max=1e4).detach()


def psnr(image_BHWC: Tensor, other_BHWC: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each pair of uint8 images, (B,) in dB; equal images count as 78 dB."""
    squares_B = (image_BHWC.float() - other_BHWC.float()).square().mean((1, 2, 3))
    return 10 * torch.log10(255**2 / squares_B.clamp(min=1e-3))
