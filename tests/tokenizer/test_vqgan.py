"""The autoencoder: shapes, and that encoding and decoding are the two halves of its forward pass."""

import pytest
import torch

from clipgen.tokenizer.vqgan import VQGAN


def vqgan(image_size=16, channel_multipliers=(1, 1), **changes) -> VQGAN:
    torch.manual_seed(0)
    settings = dict(codebook_size=32, code_dim=4, channels=32, res_blocks=1, z_channels=8, norm_groups=8)
    return VQGAN(image_size, channel_multipliers=channel_multipliers, **settings | changes).eval()


def images(size: int, batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize(("multipliers", "downsample"), [((1,), 1), ((1, 1), 2), ((1, 1, 2), 4), ((1, 1, 1, 2), 8)])
def test_shapes_follow_the_downsampling(multipliers, downsample):
    model = vqgan(16, multipliers)
    made = model(images(16))
    assert model.downsample == downsample
    grid = 16 // downsample
    assert model.grid == (grid, grid)
    assert made.image_BCHW.shape == (2, 3, 16, 16)
    assert made.tokens_Bhw.shape == (2, grid, grid)
    assert made.vectors_ND.shape == (2 * grid**2, 4)


@torch.no_grad()
def test_encode_and_decode_are_the_halves_of_forward():
    model, image_BCHW = vqgan(), images(16)
    made = model(image_BCHW)
    tokens_Bhw = model.encode(image_BCHW)
    assert torch.equal(tokens_Bhw, made.tokens_Bhw)
    assert len(tokens_Bhw.unique()) > 1
    assert tokens_Bhw.min() >= 0
    assert tokens_Bhw.max() < 32
    torch.testing.assert_close(model.decode(tokens_Bhw), made.image_BCHW)


@torch.no_grad()
def test_an_image_is_encoded_alone_as_among_others():
    model, image_BCHW = vqgan(), images(16, 3)
    assert torch.equal(model.encode(image_BCHW)[1:2], model.encode(image_BCHW[1:2]))


def test_attention_stands_where_it_was_asked_for():
    plain, attentive = vqgan(), vqgan(attention_resolutions=[8])
    assert len(plain.encoder.down[1].attn) == 0
    assert len(attentive.encoder.down[1].attn) == 1
    assert len(attentive.encoder.down[0].attn) == 0


def test_the_last_layer_makes_the_pixels():
    model = vqgan()
    with torch.no_grad():
        model.last_layer.zero_()
        model.decoder.conv_out.bias.copy_(torch.tensor([0.1, 0.2, 0.3]))
    image_BCHW = model(images(16)).image_BCHW
    assert torch.equal(image_BCHW, torch.tensor([0.1, 0.2, 0.3])[:, None, None].expand_as(image_BCHW))


def test_a_channels_last_bfloat16_pass_agrees_with_float32():
    model, image_BCHW = vqgan(32, (1, 2)), images(32)
    with torch.no_grad():
        wanted = model(image_BCHW, quantise=False).image_BCHW
        model.to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            found = model(image_BCHW.contiguous(memory_format=torch.channels_last), quantise=False).image_BCHW
    assert (found.float() - wanted).norm() / wanted.norm() < 0.03


def test_nothing_is_printed(capfd):
    vqgan()
    assert capfd.readouterr() == ("", "")


@torch.no_grad()
def test_pictures_need_not_be_square():
    model = vqgan((16, 24), (1, 1, 2), attention_resolutions=(24,))
    image_BCHW = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1
    made = model(image_BCHW)
    assert model.grid == (4, 6)
    assert made.tokens_Bhw.shape == (2, 4, 6)
    assert made.image_BCHW.shape == (2, 3, 16, 24)
    torch.testing.assert_close(model.decode(model.encode(image_BCHW)), made.image_BCHW)


@torch.no_grad()
def test_the_plain_network_has_the_same_two_halves():
    model, image_BCHW = vqgan(16, (1, 1, 1), network="plain", quantizer="moving_average"), images(16)
    made = model(image_BCHW)
    assert made.tokens_Bhw.shape == (2, 4, 4)
    torch.testing.assert_close(model.decode(made.tokens_Bhw), made.image_BCHW)
    assert model.last_layer.shape == (3, 32, 1, 1)
