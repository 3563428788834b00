"""The adversary: its losses by hand, its norms, and what LeCam adds."""

import pytest
import torch
from torch import nn

from clipgen.tokenizer.adversary import Adversary, hinge


def images(batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_hinge():
    real, made = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-2.0, 0.0, 1.0])
    assert hinge(real, made).item() == pytest.approx(0.5 * ((0 + 0.5 + 2) / 3 + (0 + 1 + 2) / 3))
    assert hinge(torch.ones(4), -torch.ones(4)) == 0


def test_the_generator_wants_high_logits():
    adversary = Adversary(1, 8)
    torch.testing.assert_close(adversary.generator_loss(images()), -adversary(images()).mean())


def test_with_group_norm_a_picture_is_judged_alone_and_with_batch_norm_not():
    for norm, alone in (("group", True), ("batch", False)):
        torch.manual_seed(0)
        adversary = Adversary(2, 8, norm)
        both, first = adversary(images())[:1], adversary(images()[:1])
        assert torch.allclose(both, first, atol=1e-5) == alone
        assert any(isinstance(part, nn.BatchNorm2d) for part in adversary.modules()) != alone


def test_lecam_pulls_each_side_to_the_mean_of_the_other():
    torch.manual_seed(0)
    plain, pulled = Adversary(1, 8), Adversary(1, 8, lecam=0.5)
    pulled.load_state_dict(plain.state_dict())
    for _ in range(2000):
        pulled.remember(torch.tensor([0.3, -0.2]))
    image, made = images(), images().flip(0) * 0.5
    real_logits, made_logits = plain(image), plain(made)
    relu = torch.nn.functional.relu
    extra = 0.5 * (relu(real_logits + 0.2).square() + relu(0.3 - made_logits).square()).mean()
    loss, mean_logits = pulled.discriminator_loss(image, made)
    torch.testing.assert_close(loss, plain.discriminator_loss(image, made)[0] + extra)
    torch.testing.assert_close(mean_logits, torch.stack([real_logits.mean(), made_logits.mean()]))


def test_hinge_is_tamings():
    from taming.modules.losses.vqperceptual import hinge_d_loss

    real, made = torch.randn(3, 1, 5, 5), torch.randn(3, 1, 5, 5)
    torch.testing.assert_close(hinge(real, made), hinge_d_loss(real, made))


def test_lecam_is_silent_where_each_side_is_beyond_the_mean_of_the_other():
    """Equation 6 as its authors compute it: with a ReLU before the square."""
    adversary = Adversary(1, 8, lecam=1.0)
    adversary.mean_logits.copy_(torch.tensor([-100.0, 100.0]))  # of real and of made pictures
    loss, _ = adversary.discriminator_loss(images(), images() * 0.5)
    torch.testing.assert_close(loss, hinge(adversary(images()), adversary(images() * 0.5)))
