"""GroupNorm for bf16 channels_last tensors on the CPU, where torch's kernel is slow unless a group has 16·n channels.

torch 2.15 takes 3.8 ms forward + backward for a (64, 64, 16, 16) tensor in 8 groups on two cores, this 1.7 ms
(benchmarks/kernels.py). State and results are those of `nn.GroupNorm`.

B batch, P pixels (h·w), C channels, G groups, N values in a group (P·C/G)
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GroupNorm(nn.GroupNorm):
    """`nn.GroupNorm` with a kernel for bf16 channels_last on the CPU."""

    def forward(self, x_BChw: Tensor) -> Tensor:
        vectors = self.num_channels // self.num_groups % 16 == 0  # torch has a fast kernel for these
        slow = x_BChw.device.type == "cpu" and x_BChw.dtype == torch.bfloat16 and not vectors
        if slow and x_BChw.is_contiguous(memory_format=torch.channels_last):
            return _ChannelsLast.apply(x_BChw, self.weight, self.bias, self.num_groups, self.eps)
        return F.group_norm(x_BChw, self.num_groups, self.weight.to(x_BChw), self.bias.to(x_BChw), self.eps)


def replace_group_norms(module: nn.Module, groups: int, eps: float = 1e-6) -> None:
    """Turn every `nn.GroupNorm` below `module` into ours with `groups` groups, in place; parameters and keys stay."""
    for child in module.modules():
        if type(child) is nn.GroupNorm:
            child.__class__ = GroupNorm
            child.num_groups, child.eps = groups, eps


class _ChannelsLast(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_BChw, weight_C, bias_C, groups, eps):
        x_BPC = _pixels_first(x_BChw)
        P = x_BPC.shape[1]
        mean_BC = _per_group(_sum_pixels(x_BPC), groups, P)
        # centred before it is squared: beside a large mean bf16 would round the difference away
        centred_BPC = x_BPC - _row(mean_BC, x_BPC)
        variance_BC = _per_group(_sum_pixels(centred_BPC * centred_BPC), groups, P)
        inverse_BC = (variance_BC + eps).rsqrt()
        ctx.save_for_backward(centred_BPC, weight_C, inverse_BC)
        ctx.groups = groups
        scale_BC, shift_BC = inverse_BC * weight_C, bias_C.expand_as(inverse_BC)
        y_BPC = torch.addcmul(_row(shift_BC, x_BPC), centred_BPC, _row(scale_BC, x_BPC))
        return _channels_first(y_BPC, x_BChw.shape)

    @staticmethod
    def backward(ctx, grad_BChw):
        centred_BPC, weight_C, inverse_BC = ctx.saved_tensors
        grad_BPC = _pixels_first(grad_BChw.to(centred_BPC.dtype).contiguous(memory_format=torch.channels_last))
        P = grad_BPC.shape[1]
        bias_grad_BC = _sum_pixels(grad_BPC)
        weight_grad_BC = _sum_pixels(grad_BPC * centred_BPC) * inverse_BC
        # dL/dx = (w·g − mean(w·g) − x̂·mean(w·g·x̂)) / σ, written as g·a + (x − mean)·b + c
        b_BC = -_per_group(weight_grad_BC * weight_C, ctx.groups, P) * inverse_BC.square()
        c_BC = -_per_group(bias_grad_BC * weight_C, ctx.groups, P) * inverse_BC
        x_grad_BPC = torch.addcmul(_row(c_BC, grad_BPC), centred_BPC, _row(b_BC, grad_BPC))
        x_grad_BPC.addcmul_(grad_BPC, _row(inverse_BC * weight_C, grad_BPC))
        return _channels_first(x_grad_BPC, grad_BChw.shape), weight_grad_BC.sum(0), bias_grad_BC.sum(0), None, None


def _pixels_first(x_BChw: Tensor) -> Tensor:
    B, C, h, w = x_BChw.shape
    return x_BChw.permute(0, 2, 3, 1).reshape(B, h * w, C)


def _channels_first(x_BPC: Tensor, shape: torch.Size) -> Tensor:
    B, C, h, w = shape
    return x_BPC.view(B, h, w, C).permute(0, 3, 1, 2)


def _sum_pixels(x_BPC: Tensor) -> Tensor:
    """(B, C), as matrix products, which accumulate in float32, of parts of 256 pixels or more; rounded once a part.

    `x_BPC.sum(1, dtype=torch.float32)` takes longer, for 128² pixels several times as long.
    """
    B, P, C = x_BPC.shape
    parts = math.gcd(P, max(1, P // 256))
    ones = torch.ones(B * parts, 1, P // parts, dtype=x_BPC.dtype)
    return torch.bmm(ones, x_BPC.reshape(B * parts, P // parts, C)).view(B, parts, C).sum(1, dtype=torch.float32)


def _per_group(sums_BC: Tensor, groups: int, pixels: int) -> Tensor:
    """Mean over a channel's group, repeated for each of its channels, (B, C)."""
    B, C = sums_BC.shape
    means_BG1 = sums_BC.view(B, groups, C // groups).sum(-1, keepdim=True) / (pixels * (C // groups))
    return means_BG1.expand(B, groups, C // groups).reshape(B, C)


def _row(values_BC: Tensor, like: Tensor) -> Tensor:
    return values_BC.to(like.dtype)[:, None, :]
