"""What stage 2 is trained on beside the tokens: values by hand, and gradients that reach the logits."""

import math

import pytest
import torch
import torch.nn.functional as F

from clipgen.transformer.loss import ESTIMATORS, embedding_loss, one_code_each, token_loss


def test_the_z_loss_is_the_squared_normaliser():
    logits_BLV, tokens_BL = torch.randn(2, 3, 5), torch.randint(5, (2, 3))
    plain = token_loss(logits_BLV, tokens_BL)
    assert token_loss(logits_BLV, tokens_BL, z_loss=0.1) - plain == pytest.approx(
        0.1 * logits_BLV.exp().sum(-1).log().square().mean().item(), rel=1e-4
    )
    assert token_loss(logits_BLV + 7, tokens_BL).item() == pytest.approx(plain.item(), rel=1e-4)  # it sees no drift


def test_smoothed_labels_leave_a_share_to_every_code():
    logits_BLV, tokens_BL = torch.randn(2, 3, 5), torch.randint(5, (2, 3))
    told = 0.8 * F.one_hot(tokens_BL, 5) + 0.2 / 5
    expected = -(told * logits_BLV.log_softmax(-1)).sum(-1).mean()
    assert token_loss(logits_BLV, tokens_BL, label_smoothing=0.2).item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_embedding_loss_is_zero_alike_and_exists_for_opposites():
    a_BE = F.normalize(torch.randn(3, 8), dim=-1)
    assert embedding_loss(a_BE, a_BE).item() == pytest.approx(0, abs=1e-6)
    right_angle = embedding_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    assert right_angle.item() == pytest.approx(math.log(2))
    assert embedding_loss(a_BE, -a_BE).isfinite()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_one_code_is_taken_and_its_gradient_goes_through_the_softmax(estimator):
    logits_RLV = torch.randn(2, 3, 5, requires_grad=True)
    codes_RLV = one_code_each(logits_RLV, estimator)
    assert torch.equal(codes_RLV.round().sum(-1), torch.ones(2, 3))
    torch.testing.assert_close(codes_RLV, codes_RLV.round())
    (codes_RLV * torch.arange(5.0)).sum().backward()
    assert (logits_RLV.grad.abs().amax(-1) > 1e-4).all()
    torch.testing.assert_close(logits_RLV.grad.sum(-1), torch.zeros(2, 3), atol=1e-5, rtol=0)  # as a softmax has it


def test_straight_through_has_the_softmax_gradient_and_the_likeliest_code():
    logits_RLV = torch.randn(2, 3, 5, requires_grad=True)
    codes_RLV = one_code_each(logits_RLV, "straight_through")
    assert torch.equal(codes_RLV.argmax(-1), logits_RLV.argmax(-1))
    wanted = torch.autograd.grad((logits_RLV.softmax(-1) * torch.arange(5.0)).sum(), logits_RLV)[0]
    found = torch.autograd.grad((codes_RLV * torch.arange(5.0)).sum(), logits_RLV)[0]
    torch.testing.assert_close(found, wanted)


def test_gumbel_draws_by_probability():
    logits_V = torch.tensor([0.0, math.log(3.0)])
    drawn = one_code_each(logits_V.expand(4000, 1, 2), "gumbel").mean((0, 1))
    assert drawn[1].item() == pytest.approx(0.75, abs=0.03)
