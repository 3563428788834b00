"""The losses of stage 1, against values worked out by hand."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from clipgen.tokenizer.loss import adaptive_weight, perceptual_distance, pixel_distance


def test_pixel_distances():
    image, other = torch.tensor([[[[0.0, 1.0]]]]), torch.tensor([[[[0.0, 3.0]]]])
    assert pixel_distance(image, other, "l1") == 1.0
    assert pixel_distance(image, other, "l2") == 2.0


def decoded():
    """A picture that a last layer made of (1, 2, 2)."""
    last_layer = torch.tensor([1.0, 2.0, -1.0], requires_grad=True)
    return last_layer * torch.tensor([1.0, 2.0, 2.0]), last_layer


def test_the_adaptive_weight_is_the_ratio_of_gradient_norms_at_the_last_layer():
    made, last_layer = decoded()
    pull, push = torch.tensor([2.0, 2.0, -1.0]), torch.tensor([4.0, 1.0, 1.0])
    weight = adaptive_weight(made, pull, push, last_layer)
    assert weight.item() == pytest.approx(24**0.5 / 24**0.5, rel=1e-4)  # ‖(2, 4, -2)‖ / ‖(4, 2, 2)‖
    assert adaptive_weight(made, 3 * pull, push, last_layer).item() == pytest.approx(3, rel=1e-4)
    weak = torch.tensor([0.0, 0.0, 1.0])
    assert adaptive_weight(made, pull, weak, last_layer).item() == pytest.approx(6**0.5, rel=1e-3)
    assert not weight.requires_grad
    made.backward(pull)  # the graph is still there
    torch.testing.assert_close(last_layer.grad, torch.tensor([2.0, 4.0, -2.0]))


def test_the_adaptive_weight_is_bounded():
    made, last_layer = decoded()
    assert adaptive_weight(made, torch.ones(3), torch.zeros(3), last_layer) == 1e4


def test_the_adaptive_weight_is_tamings():
    """Against its own method, on a decoder's last layer and a discriminator with the same weights."""
    from taming.modules.losses.vqperceptual import VQLPIPSWithDiscriminator as Taming

    torch.manual_seed(0)
    last_layer, discriminator = torch.nn.Conv2d(8, 3, 3, padding=1), torch.nn.Conv2d(3, 1, 4, 2)
    h, image = torch.randn(2, 8, 16, 16), torch.rand(2, 3, 16, 16)
    made = last_layer(h)
    reconstruction, adversarial = (made - image).abs().mean(), -discriminator(made).mean()
    theirs = Taming.calculate_adaptive_weight(
        SimpleNamespace(discriminator_weight=1.0), reconstruction, adversarial, last_layer.weight
    )
    grads = [torch.autograd.grad(loss, made, retain_graph=True)[0] for loss in (reconstruction, adversarial)]
    ours = adaptive_weight(made, *grads, last_layer.weight)
    assert 0.01 < theirs < 1e3
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)


def test_weights_count_each_channel_of_each_map():
    image, other = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    weights = [torch.tensor([1.0, 0.0, 2.0]), torch.tensor([0.5, 0.5, 0.0])]
    expected = 0.0
    for a, b, weight_C in zip(two_maps(image), two_maps(other), weights, strict=True):
        squares = (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square()
        expected += (squares * weight_C[:, None, None]).sum(1).mean()
    torch.testing.assert_close(perceptual_distance(two_maps, image, other, weights), expected)


def test_a_perceptual_distance_is_summed_in_float32_under_autocast():
    image, other = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)
    weights = [torch.rand(3)]
    exact = perceptual_distance(lambda x: [x], image, other, weights)
    with torch.autocast("cpu", torch.bfloat16):
        assert perceptual_distance(lambda x: [x], image, other, weights) == exact


def two_maps(image_BCHW):
    return [image_BCHW * 2, F.avg_pool2d(image_BCHW.square(), 2)]


def test_the_perceptual_distance_of_an_image_to_itself_is_zero():
    image, other = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    assert perceptual_distance(two_maps, image, image) == 0
    assert perceptual_distance(two_maps, image, other) > 0.01


def test_the_perceptual_distance_by_hand():
    image = torch.tensor([3.0, 4.0, 0.0])[None, :, None, None].expand(1, 3, 4, 4)
    other = torch.tensor([0.0, 0.0, 7.0])[None, :, None, None].expand(1, 3, 4, 4)
    assert perceptual_distance(lambda x: [x], image, other).item() == pytest.approx(2.0)  # unit vectors at 90°
    assert perceptual_distance(lambda x: [x], image, 5 * image).item() == pytest.approx(0.0, abs=1e-6)


def test_perceptual_gradients_flow_into_the_first_image_only():
    image = torch.rand(1, 3, 8, 8, requires_grad=True)
    other = torch.rand(1, 3, 8, 8, requires_grad=True)
    perceptual_distance(two_maps, image, other).backward()
    assert image.grad.norm() > 0
    assert other.grad is None


@pytest.mark.parametrize("weighted", [True, False])
def test_the_perceptual_gradients_are_those_of_the_formula(weighted):
    image = torch.rand(2, 3, 8, 8, dtype=torch.float32, requires_grad=True)
    other = torch.rand(2, 3, 8, 8)
    weights = [torch.rand(3), torch.rand(3)] if weighted else None

    def formula(image, other):
        pairs = zip(two_maps(image), two_maps(other), weights or [torch.full((3,), 1 / 2)] * 2, strict=True)
        squares = [(F.normalize(a) - F.normalize(b)).square() * w[:, None, None] for a, b, w in pairs]
        return sum(square.sum(1).mean() for square in squares)

    made, wanted = perceptual_distance(two_maps, image, other, weights), formula(image, other)
    torch.testing.assert_close(made, wanted)
    torch.testing.assert_close(torch.autograd.grad(3 * made, image), torch.autograd.grad(3 * wanted, image))
