"""taming's blocks with what this machine gains by: one kernel for x·σ(x), and maps made again instead of kept.

B batch, C channels, h w pixels of a map
"""

import torch
import torch.nn.functional as F
from taming.modules.diffusionmodules.model import AttnBlock, ResnetBlock
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Checkpointed(nn.Module):
    """With `checkpointing` the backward pass runs the block again, and only its input is held until then."""

    checkpointing = False

    def forward(self, x_BChw: Tensor, time_embedding: None = None) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(self.run, x_BChw, use_reentrant=False)
        return self.run(x_BChw)


class ResBlock(Checkpointed, ResnetBlock):
    def run(self, x_BChw: Tensor) -> Tensor:
        h_BChw = self.conv1(F.silu(self.norm1(x_BChw)))
        h_BChw = self.conv2(self.dropout(F.silu(self.norm2(h_BChw))))
        return (x_BChw if self.in_channels == self.out_channels else self.nin_shortcut(x_BChw)) + h_BChw


class AttentionBlock(Checkpointed, AttnBlock):
    def run(self, x_BChw: Tensor) -> Tensor:
        return AttnBlock.forward(self, x_BChw)


OURS = {ResnetBlock: ResBlock, AttnBlock: AttentionBlock}


def replace_blocks(module: nn.Module) -> None:
    """Turn taming's blocks below `module` into ours, in place; parameters and keys stay."""
    for child in module.modules():
        child.__class__ = OURS.get(type(child), type(child))
