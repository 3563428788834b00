"""The two layers that have kernels of ours on the CPU, forward + backward, against torch's own."""

import torch
import torch.nn.functional as F
from table import row, seconds, show
from torch import nn

from clipgen.tokenizer.norm import GroupNorm
from clipgen.transformer.norm import RMSNorm


def group_norm(channels: int, side: int, groups: int) -> dict:
    ours, peer = GroupNorm(groups, channels), nn.GroupNorm(groups, channels)
    shape = (64, channels, side, side)
    x = torch.randn(shape).to(torch.bfloat16, memory_format=torch.channels_last).requires_grad_()
    grad = torch.randn(shape).to(torch.bfloat16, memory_format=torch.channels_last)
    mine, theirs = seconds(lambda: ours(x).backward(grad), lambda: peer(x).backward(grad))
    return row(
        f"GroupNorm({groups}) 64×{channels}×{side}² bf16", "ms", 1e3 * mine, 1e3 * theirs, "torch, channels_last"
    )


def rms_norm(*shape: int) -> dict:
    ours = RMSNorm(shape[-1])
    x = torch.randn(shape, dtype=torch.bfloat16, requires_grad=True)
    grad = torch.randn(shape, dtype=torch.bfloat16)

    def peer():
        F.rms_norm(x, shape[-1:], ours.weight.to(x.dtype), ours.eps).backward(grad)

    mine, theirs = seconds(lambda: ours(x).backward(grad), peer)
    return row(f"RMSNorm {'×'.join(map(str, shape))} bf16", "ms", 1e3 * mine, 1e3 * theirs, "torch F.rms_norm")


if __name__ == "__main__":
    rows = [
        group_norm(32, 32, 4),
        group_norm(64, 16, 8),
        group_norm(128, 8, 32),
        rms_norm(32, 68, 192),
        rms_norm(32, 3, 68, 64),
    ]
    show(rows, "Normalisation, forward + backward")
