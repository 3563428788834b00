"""Losses of stage 1 between a picture and its reconstruction (VQGAN, arXiv 2012.09841, equations 5 to 7).

B batch, H W pixels
"""

from collections.abc import Callable, Sequence

import torch
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
    if weights is None:
        weights = [torch.full((a.shape[1],), 1 / len(got), device=a.device) for a in got]
    return sum(_UnitDistance.apply(*of_map) for of_map in zip(got, wanted, weights, strict=True))


class _UnitDistance(torch.autograd.Function):
    """Σ_C w·(â − b̂)², averaged over pixels, with â = a / |a|: in half the time of what autograd makes of it."""

    @staticmethod
    def forward(ctx, a_BChw: Tensor, b_BChw: Tensor, weight_C: Tensor) -> Tensor:
        unit_BChw, inverse_B1hw = _unit(a_BChw)
        difference_BChw = unit_BChw - _unit(b_BChw)[0]
        ctx.dtype, ctx.pixels = a_BChw.dtype, inverse_B1hw.numel()
        ctx.save_for_backward(unit_BChw, difference_BChw, inverse_B1hw, weight_C)
        return (difference_BChw.square().sum((0, 2, 3)) * weight_C).sum() / ctx.pixels

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        unit_BChw, difference_BChw, inverse_B1hw, weight_C = ctx.saved_tensors
        of_unit_BChw = difference_BChw * (2 / ctx.pixels * grad * weight_C)[:, None, None]
        along_B1hw = (of_unit_BChw * unit_BChw).sum(1, keepdim=True)  # which the length takes out
        of_a_BChw = of_unit_BChw.addcmul_(unit_BChw, along_B1hw, value=-1).mul_(inverse_B1hw)
        return of_a_BChw.to(ctx.dtype), None, None


def _unit(x_BChw: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors of length 1 in float32, and what they were multiplied by."""
    inverse_B1hw = x_BChw.float().square().sum(1, keepdim=True).sqrt_().clamp_(min=1e-12).reciprocal_()
    return x_BChw * inverse_B1hw, inverse_B1hw


def adaptive_weight(
    made_BCHW: Tensor,
    image_grad_BCHW: Tensor,
    adversarial_grad_BCHW: Tensor,
    last_layer: Tensor,
    over_ranks: Callable[[Tensor], Tensor] = lambda tensor: tensor,
) -> Tensor:
    """‖∇ reconstruction‖ / ‖∇ adversarial‖ at the decoder's last layer, at most 10⁴ (equation 7); no gradient.

    The gradients given are those of the two losses at the picture that was made; its graph is kept. `over_ranks` takes
    the mean of a gradient over ranks, so that all of them weigh alike.
    """
    of_image, of_adversary = (
        over_ranks(torch.autograd.grad(made_BCHW, last_layer, grad.to(made_BCHW), retain_graph=True)[0].float()).norm()
        for grad in (image_grad_BCHW, adversarial_grad_BCHW)
    )
    return (of_image / (of_adversary + 1e-4)).clamp(max=1e4).detach()


def psnr(image_BHWC: Tensor, other_BHWC: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each pair of uint8 images, (B,) in dB; equal images count as 78 dB."""
    squares_B = (image_BHWC.float() - other_BHWC.float()).square().mean((1, 2, 3))
    return 10 * torch.log10(255**2 / squares_B.clamp(min=1e-3))
