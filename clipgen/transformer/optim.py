"""Which parameter is trained by which optimizer: Muon for the blocks' matrices, or AdamW for all."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

MUON, ADAMW = KINDS = ("muon", "adamw")


def parameter_groups(model: nn.Module) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """(matrices of the blocks, for Muon; other matrices, decayed; embeddings, vectors and the null, not decayed)."""
    matrices, decayed, plain = [], [], []
    for name, parameter in model.named_parameters():
        if name.startswith("blocks.") and parameter.ndim == 2:
            matrices.append(parameter)
        elif parameter.ndim == 2 and not name.startswith(("embed.", "place_", "conditioner.null")):
            decayed.append(parameter)
        else:
            plain.append(parameter)
    return matrices, decayed, plain


def make_optimizers(
    model: nn.Module, kind: str, lr: float, muon_lr: float, weight_decay: float, beside: Iterable[Tensor] = ()
) -> list[Optimizer]:
    """[AdamW, Muon] or [AdamW]; AdamW also trains the matrices `beside` the model."""
    matrices, decayed, plain = parameter_groups(model)
    decayed += beside
    if kind == ADAMW:
        matrices, decayed = [], matrices + decayed
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizers: list[Optimizer] = [torch.optim.AdamW(groups, lr, betas=(0.9, 0.95), fused=True)]
    if matrices:
        optimizers.append(torch.optim.Muon(matrices, muon_lr, weight_decay=weight_decay))
    return optimizers
