"""What there is of ours in place of torch's: two layers, forward + backward, and a step of Muon."""

import torch
import torch.nn.functional as F
from table import row, seconds, show
from torch import nn

from clipgen.tokenizer.norm import GroupNorm
from clipgen.transformer.model import Transformer
from clipgen.transformer.norm import RMSNorm
from clipgen.transformer.optim import Muon, parameter_groups


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


def muon(layers: int, width: int, heads: int) -> dict:
    """All matrices of the blocks; both compute in bf16."""
    matrices = parameter_groups(Transformer((16, 16), 1024, 512, width, layers, heads))[0]
    for matrix in matrices:
        matrix.grad = torch.randn_like(matrix)
    steps = [kind(matrices, 0.02).step for kind in (Muon, torch.optim.Muon)]
    mine, theirs = seconds(*steps, rounds=5, warm_ups=1)
    return row(f"Muon, a step of {layers}×{width}", "ms", 1e3 * mine, 1e3 * theirs, "torch.optim.Muon")


def rows() -> list[dict]:
    return [
        group_norm(32, 32, 4),
        group_norm(64, 16, 8),
        group_norm(128, 8, 32),
        rms_norm(32, 68, 192),
        rms_norm(32, 3, 68, 64),
        muon(8, 512, 8),
        muon(5, 192, 3),
    ]


if __name__ == "__main__":
    show(rows, "Normalisation and Muon")
