"""The losses of stage 1, against values worked out by hand."""

import pytest
import torch
import torch.nn.functional as F

from clipgen.tokenizer.loss import adaptive_weight, perceptual_distance, pixel_distance


def test_pixel_distances():
    image, other = torch.tensor([[[[0.0, 1.0]]]]), torch.tensor([[[[0.0, 3.0]]]])
    assert pixel_distance(image, other, "l1") == 1.0
    assert pixel_distance(image, other, "l2") == 2.0


def layer_losses(scale: float = 1.0):
    last_layer = torch.tensor([1.0, 2.0, -1.0], requires_grad=True)
    pull = torch.tensor([1.0, 2.0, 2.0])
    return last_layer.square().sum(), scale * (last_layer * pull).sum(), last_layer


def test_the_adaptive_weight_is_the_ratio_of_gradient_norms():
    reconstruction, adversarial, last_layer = layer_losses()
    weight = adaptive_weight(reconstruction, adversarial, last_layer)
    assert weight.item() == pytest.approx((2 * 6**0.5) / 3, rel=1e-4)  # ‖2·(1, 2, -1)‖ / ‖(1, 2, 2)‖
    assert not weight.requires_grad
    (reconstruction + weight * adversarial).backward()  # both graphs are still there
    expected = 2 * last_layer.detach() + weight * torch.tensor([1.0, 2.0, 2.0])
    torch.testing.assert_close(last_layer.grad, expected)


def test_the_adaptive_weight_is_bounded():
    assert adaptive_weight(*layer_losses(scale=0.0)) == 1e4


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
