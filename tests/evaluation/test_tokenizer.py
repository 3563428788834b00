"""How well a tokenizer gives images back."""

import math

import pytest
import torch

from clipgen.data.transforms import to_model_range, to_uint8
from clipgen.evaluation.fidelity import reconstruction
from clipgen.evaluation.tokenizer import reconstruct
from clipgen.tokenizer.loss import psnr
from clipgen.tokenizer.vqgan import VQGAN


def images(n: int) -> torch.Tensor:
    return torch.randint(256, (n, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def vqgan() -> VQGAN:
    torch.manual_seed(0)
    shape = dict(codebook_size=32, code_dim=4, channels=32, channel_multipliers=[1, 1], res_blocks=1, z_channels=8)
    return VQGAN(16, **shape, norm_groups=8).eval()


def test_psnr_by_hand():
    image = torch.full((3, 4, 4, 3), 100, dtype=torch.uint8)
    other = image.clone()
    other[1] += 5
    other[2, 0] += 20  # a quarter of the pixels
    found = psnr(image, other)
    wanted = [78.13, 20 * math.log10(255 / 5), 20 * math.log10(255 / 10)]
    assert found.tolist() == pytest.approx(wanted, abs=0.01)
    assert torch.equal(psnr(other, image), found)


@torch.no_grad()
def test_a_reconstruction_is_the_decoded_tokens(vqgan):
    tokens_Bhw, made_BHWC = reconstruct(vqgan, images(3))
    assert torch.equal(tokens_Bhw, vqgan.encode(to_model_range(images(3))))
    assert made_BHWC.dtype == torch.uint8
    difference = made_BHWC.int() - to_uint8(vqgan.decode(tokens_Bhw)).int()
    assert difference.abs().max() <= 1  # rounding, between two memory formats


def test_the_figures_are_over_all_images_however_they_are_batched(vqgan):
    image_BHWC = images(7)
    figures = [
        reconstruction(vqgan, ({"image": part} for part in image_BHWC.split(size))) for size in (7, 3, 1)
    ]  # fmt: skip
    tokens_Bhw, made_BHWC = reconstruct(vqgan, image_BHWC)
    counts = torch.bincount(tokens_Bhw.flatten(), minlength=32)
    p = counts[counts > 0] / counts.sum()
    for each in figures:
        assert each["vqgan.psnr"] == pytest.approx(psnr(made_BHWC, image_BHWC).mean().item(), abs=1e-3)
        assert each["vqgan.usage"] == pytest.approx(len(tokens_Bhw.unique()) / 32)
        assert each["vqgan.perplexity"] == pytest.approx(math.exp(-(p * p.log()).sum()), rel=1e-4)
