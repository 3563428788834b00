"""The reconstruction loss through a real decoder and a real CLIP: it pulls the logits towards the image's embedding."""

from importlib.resources import files

import pytest
import torch
import torch.nn.functional as F

from clipgen.cli.reconstruction import embedding_reconstruction
from clipgen.clip.frozen import load_clip
from clipgen.config import EmbeddingReconstruction
from clipgen.tokenizer.vqgan import VQGAN
from clipgen.transformer.loss import embedding_loss, one_code_each

K = 12


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    vqgan = VQGAN(16, K, 4, channels=32, channel_multipliers=[1, 1, 1], res_blocks=1, z_channels=8, norm_groups=8)
    return vqgan.eval(), load_clip(f"local-dir:{files('clipgen.shapes')}/clip")


def test_it_is_off_by_default(parts):
    assert embedding_reconstruction(EmbeddingReconstruction(), *parts) is None


def test_codes_of_one_have_the_embedding_of_the_decoded_image(parts):
    vqgan, clip = parts
    made = embedding_reconstruction(EmbeddingReconstruction(weight=1.0), vqgan, clip)
    tokens_Bhw = torch.randint(K, (2, *vqgan.grid))
    one_hot_BLK = F.one_hot(tokens_Bhw.flatten(1), K).float()
    with torch.no_grad():
        found, wanted = made.embed(one_hot_BLK), clip.encode_image(vqgan.decode(tokens_Bhw))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_its_gradient_is_that_of_the_image_through_decoder_and_clip(parts):
    vqgan, clip = parts
    made = embedding_reconstruction(EmbeddingReconstruction(weight=1.0), vqgan, clip)
    torch.manual_seed(1)
    wanted_BE = F.normalize(torch.randn(2, clip.identity.embed_dim), dim=-1)
    logits_BLK, aside_BLK = torch.randn(2, 16, K, requires_grad=True), torch.randn(2, 16, K)

    codes_BLK = one_code_each(logits_BLK, "straight_through")
    codes_BLK.retain_grad()
    embedding_loss(made.embed(codes_BLK), wanted_BE).backward()
    with torch.no_grad():
        moved = [embedding_loss(made.embed(codes_BLK + step * aside_BLK), wanted_BE).item() for step in (-1e-3, 1e-3)]
    slope = (codes_BLK.grad * aside_BLK).sum().item()
    assert slope == pytest.approx((moved[1] - moved[0]) / 2e-3, rel=0.05)  # of float32, in a curve
    p_BLK, pull_BLK = logits_BLK.softmax(-1), codes_BLK.grad
    expected_BLK = p_BLK * (pull_BLK - (p_BLK * pull_BLK).sum(-1, keepdim=True))
    torch.testing.assert_close(logits_BLK.grad, expected_BLK, rtol=1e-3, atol=1e-9)
    assert logits_BLK.grad.abs().amax(-1).min() > 0  # every place is pulled
    assert all(parameter.grad is None for network in parts for parameter in network.parameters())
