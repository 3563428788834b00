"""Muon is torch's Muon but for its rounding (tests/transformer/test_module.py: in which precision)."""

import copy
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.optim._muon import _zeropower_via_newtonschulz

from clipgen.transformer.optim import Muon, newton_schulz

OURS = (Muon, partial(Muon, dtype=torch.float32))
STEPS = (3.4445, -4.7750, 2.0315), 5, 1e-7


def moved(kinds: list[type[torch.optim.Muon]], shape: tuple[int, int], **settings) -> Tensor:
    """What steps move a matrix by; each is taken by an optimizer of its own kind with the state of the one before."""
    draw, state = torch.Generator().manual_seed(0), None
    weight = nn.Parameter(torch.randn(shape, generator=draw))
    begun = weight.detach().clone()
    for kind in kinds:
        optimizer = kind([weight], 0.02, **settings)
        if state is not None:
            optimizer.load_state_dict(state)
        weight.grad = torch.randn(shape, generator=draw)
        optimizer.step()
        state = copy.deepcopy(optimizer.state_dict())
    return weight.detach() - begun


@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.0}, {"nesterov": False}])
@pytest.mark.parametrize("shape", [(48, 33), (33, 48), (40, 40), (16, 48), (120, 40)])
@pytest.mark.parametrize("kind", OURS)
def test_its_steps_are_those_of_torch_and_so_are_its_states(kind, shape, settings):
    theirs, ours = (moved([each] * 3, shape, **settings) for each in (torch.optim.Muon, kind))
    there_and_back = moved([torch.optim.Muon, kind, torch.optim.Muon], shape, **settings)
    rounding = 0.05 if kind is Muon and max(shape) > 1.5 * min(shape) else 0.03  # bf16 rounds theirs by 0.4 to 1.2 %
    for made in (ours, there_and_back):
        assert (made - theirs).norm() < rounding * theirs.norm()


def matrix(shape: tuple[int, int], decades: float) -> Tensor:
    """With singular values over so many powers of ten."""
    torch.manual_seed(0)
    left, values, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    return left * torch.logspace(0, -decades, len(values)) @ right


@pytest.mark.parametrize("shape", [(48, 33), (33, 48), (24, 96), (96, 24)])
def test_the_iteration_keeps_the_singular_vectors(shape):
    left, values, right = torch.linalg.svd(matrix(shape, 1.0), full_matrices=False)
    made = newton_schulz(left * values @ right, *STEPS)
    turned = left.mT @ made @ right.mT
    assert (turned - turned.diag().diag()).abs().max() < 1e-3
    assert turned.diag().min() > 0.6 and turned.diag().max() < 1.3


@pytest.mark.parametrize("decades", [0.0, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("shape", [(64, 256), (512, 192), (60, 80)])
def test_in_bf16_a_long_matrix_is_rounded_about_as_much_as_by_torch(shape, decades):
    given = matrix(shape, decades)
    exact = newton_schulz(given, *STEPS)
    ours = newton_schulz(given.bfloat16(), *STEPS)
    assert ours.dtype == torch.bfloat16
    theirs = _zeropower_via_newtonschulz(given, *STEPS)
    rounded, torchs = ((each.float() - exact).norm() / exact.norm() for each in (ours, theirs))
    assert rounded < max(0.05, 1.1 * torchs)


def test_a_matrix_without_gradient_stays_and_a_closure_gives_the_loss():
    used, unused = nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(3, 2))
    optimizer = Muon([used, unused], 0.02)

    def closure():
        loss = used.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 6
    assert (used < 1).all() and (unused == 1).all()
