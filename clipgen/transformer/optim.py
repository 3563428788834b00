"""Which parameter is trained by which optimizer: Muon for the blocks' matrices, or AdamW for all."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

LONG = 1.5  # times as long as it is high, a matrix has its Gram matrix iterated
TOGETHER = 3  # steps of a Gram matrix in bf16


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
    if kind == "adamw":
        matrices, decayed = [], matrices + decayed
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizers: list[Optimizer] = [torch.optim.AdamW(groups, lr, betas=(0.9, 0.95), fused=True)]
    if matrices:
        dtype = torch.float32 if float32 else torch.bfloat16
        optimizers.append(Muon(matrices, muon_lr, dtype, weight_decay=weight_decay))
    return optimizers


class Muon(torch.optim.Muon):
    """torch's Muon, whose states it shares, in bf16 or float32 and with fewer products.

    https://kellerjordan.github.io/posts/muon
    """

    def __init__(self, params: Iterable[Tensor], lr: float, dtype: torch.dtype = torch.bfloat16, **settings: Any):
        super().__init__(params, lr, **settings)
        self.dtype = dtype

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
        update_RC = update_RC.to(self.dtype)
        whole_RC = update_RC.full_tensor() if isinstance(update_RC, DTensor) else update_RC
        made_RC = newton_schulz(whole_RC, group["ns_coefficients"], group["ns_steps"], group["eps"])
        if isinstance(update_RC, DTensor):  # every rank has computed the whole and keeps its part
            made_RC = distribute_tensor(made_RC, update_RC.device_mesh, update_RC.placements, src_data_rank=None)
        rows, columns = parameter.shape
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(made_RC, alpha=-group["lr"] * math.sqrt(max(1, rows / columns)))


def newton_schulz(matrix_RC: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """(R, C) → (R, C) with the same singular vectors and singular values near 1, in the matrix's own precision.

    Of a long matrix the small Gram matrix is iterated, which takes fewer products; in bf16 it is computed anew after
    three steps, before its rounding has grown. https://dao-lab.ai/blog/2026/gram-newton-schulz
    """
    a, b, c = coefficients
    upright = matrix_RC.shape[0] > matrix_RC.shape[1]
    x_RC = matrix_RC.mT if upright else matrix_RC  # the shorter side gives the smaller products
    x_RC = x_RC / x_RC.norm().clamp(min=eps)
    if x_RC.shape[1] <= LONG * x_RC.shape[0]:
        for _ in range(steps):
            gram_RR = x_RC @ x_RC.mT
            x_RC = torch.addmm(x_RC, torch.addmm(gram_RR, gram_RR, gram_RR, beta=b, alpha=c), x_RC, beta=a)
    else:
        together = steps if x_RC.dtype == torch.float32 else TOGETHER
        for done in range(0, steps, together):
            x_RC = _steps_of(x_RC @ x_RC.mT, coefficients, min(together, steps - done)) @ x_RC
    return x_RC.mT if upright else x_RC


def _steps_of(gram_RR: Tensor, coefficients: tuple[float, float, float], steps: int) -> Tensor:
    """(R, R) that takes the matrix whose Gram matrix it is so many steps on."""
    a, b, c = coefficients
    made_RR = None
    for left in reversed(range(steps)):
        step_RR = torch.addmm(gram_RR, gram_RR, gram_RR, beta=b, alpha=c)
        step_RR.diagonal().add_(a)
        made_RR = step_RR if made_RR is None else step_RR @ made_RR
        if left:
            gram_RR = gram_RR @ step_RR @ step_RR
    return made_RR
