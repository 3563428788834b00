"""Muon in float32 is torch's Muon but for its rounding (tests/transformer/test_module.py: where it is taken)."""

import copy

import pytest
import torch
from torch import Tensor, nn

from clipgen.transformer.optim import Float32Muon, newton_schulz

KINDS = (torch.optim.Muon, Float32Muon)


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
@pytest.mark.parametrize("shape", [(48, 33), (33, 48), (40, 40)])
def test_its_steps_are_those_of_torch_and_so_are_its_states(shape, settings):
    theirs, ours = (moved([kind] * 3, shape, **settings) for kind in KINDS)
    there_and_back = moved([KINDS[0], KINDS[1], KINDS[0]], shape, **settings)
    for made in (ours, there_and_back):
        assert (made - theirs).norm() < 0.03 * theirs.norm()  # bf16 rounds theirs: 0.4 to 1.2 %


@pytest.mark.parametrize("shape", [(48, 33), (33, 48)])
def test_the_iteration_keeps_the_singular_vectors(shape):
    left, values, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    made = newton_schulz(left * values @ right, (3.4445, -4.7750, 2.0315), 5, 1e-7)
    turned = left.mT @ made @ right.mT
    assert (turned - turned.diag().diag()).abs().max() < 1e-3
    assert turned.diag().min() > 0.6 and turned.diag().max() < 1.3


def test_a_matrix_without_gradient_stays_and_a_closure_gives_the_loss():
    used, unused = nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(3, 2))
    optimizer = Float32Muon([used, unused], 0.02)

    def closure():
        loss = used.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 6
    assert (used < 1).all() and (unused == 1).all()
