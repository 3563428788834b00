"""Which parameter is trained by which optimizer: Muon for the blocks' matrices, or AdamW for all."""

import math
from collections.abc import Iterable
from typing import Any

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
    model: nn.Module,
    kind: str,
    lr: float,
    muon_lr: float,
    weight_decay: float,
    beside: Iterable[Tensor] = (),
    float32: bool = False,
) -> list[Optimizer]:
    """[AdamW, Muon] or [AdamW]; AdamW also trains the matrices `beside` the model. Muon computes in bf16 or float32."""
    matrices, decayed, plain = parameter_groups(model)
    decayed += beside
    if kind == ADAMW:
        matrices, decayed = [], matrices + decayed
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizers: list[Optimizer] = [torch.optim.AdamW(groups, lr, betas=(0.9, 0.95), fused=True)]
    if matrices:
        muon = Float32Muon if float32 else torch.optim.Muon
        optimizers.append(muon(matrices, muon_lr, weight_decay=weight_decay))
    return optimizers


class Float32Muon(torch.optim.Muon):
    """torch's Muon, which orthogonalises in bf16, doing so in float32. States are interchangeable.

    https://kellerjordan.github.io/posts/muon
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group)
        return loss

    def _move(self, parameter: Tensor, grad_RC: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(grad_RC)
        momentum_RC = state["momentum_buffer"].lerp_(grad_RC, 1 - group["momentum"])
        update_RC = grad_RC.lerp(momentum_RC, group["momentum"]) if group["nesterov"] else momentum_RC
        update_RC = newton_schulz(update_RC, group["ns_coefficients"], group["ns_steps"], group["eps"])
        rows, columns = parameter.shape
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update_RC, alpha=-group["lr"] * math.sqrt(max(1, rows / columns)))


def newton_schulz(matrix_RC: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """(R, C) → (R, C) with the same singular vectors and singular values near 1, in the matrix's own precision."""
    a, b, c = coefficients
    upright = matrix_RC.shape[0] > matrix_RC.shape[1]
    x_RC = matrix_RC.mT if upright else matrix_RC  # the shorter side gives the smaller products
    x_RC = x_RC / x_RC.norm().clamp(min=eps)
    for _ in range(steps):
        gram_RR = x_RC @ x_RC.mT
        x_RC = torch.addmm(x_RC, torch.addmm(gram_RR, gram_RR, gram_RR, beta=b, alpha=c), x_RC, beta=a)
    return x_RC.mT if upright else x_RC
