"""Figures of a tokenizer: against formulas, against another implementation, and with what they say of themselves."""

import pytest
import torch
from torch import nn

from clipgen.data.transforms import to_model_range, to_uint8
from clipgen.evaluation.extractors import Extractor
from clipgen.evaluation.fidelity import Distance, measure, triplets, usage_chart
from clipgen.evaluation.tokenizer import reconstruct
from clipgen.tokenizer.codes import Perturbation
from clipgen.tokenizer.loss import psnr
from clipgen.tokenizer.vqgan import VQGAN

NONE = Perturbation(1.0, 0.0, 4)
SHAPE = dict(codebook_size=32, code_dim=4, channels=32, channel_multipliers=[1, 1], res_blocks=1, z_channels=8)


def images(n: int, size: int = 16) -> torch.Tensor:
    return torch.randint(256, (n, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def tokenizer(size: int = 16, **changes) -> VQGAN:
    torch.manual_seed(0)
    return VQGAN(size, **SHAPE, norm_groups=8, **changes).eval()


def batches(image_BHWC: torch.Tensor, size: int = 3):
    return ({"image": part} for part in image_BHWC.split(size))


class Means(nn.Module):
    """Mean colour of each quarter, as features."""

    def forward(self, image_BCHW):
        assert image_BCHW.dtype == torch.uint8
        return nn.functional.adaptive_avg_pool2d(image_BCHW.float(), 2).flatten(1)[:, :4]


def test_each_figure_is_what_it_says_however_the_pictures_are_batched():
    vqgan, image_BHWC = tokenizer(), images(7)
    l1 = Distance(lambda made, wanted: (made - wanted).abs().mean(), "mean absolute difference")
    means = Extractor("means", "", 4, "mean colours", "as they are", Means())
    found, other = (
        measure(vqgan, batches(image_BHWC, size), NONE, distances={"l1": l1}, features={"fd": means}) for size in (3, 7)
    )
    made_BHWC = reconstruct(vqgan, image_BHWC)[1]
    assert not found.left_out and found.counts_K.sum() == 7 * 64
    for name, (value, how) in found.figures.items():
        assert value == pytest.approx(other.figures[name].value, rel=1e-3), name
        assert "N=7" in how, name
    wanted = {
        "psnr": psnr(made_BHWC, image_BHWC).mean(),
        "psnr_perturbed_p0_k4": psnr(made_BHWC, image_BHWC).mean(),
        "l1": (to_model_range(made_BHWC) - to_model_range(image_BHWC)).abs().mean(),
        "usage": (found.counts_K > 0).float().mean(),
        "ssim": ssim(made_BHWC, image_BHWC),
        "fd": frechet(Means()(image_BHWC.permute(0, 3, 1, 2)), Means()(made_BHWC.permute(0, 3, 1, 2))),
    }
    for name, value in wanted.items():
        assert found.figures[name].value == pytest.approx(float(value), rel=2e-3, abs=1e-5), name


def ssim(made_BHWC, image_BHWC) -> float:
    """Wang et al. 2004, with borders that mirror the picture."""
    at = torch.arange(11.0) - 5
    g = torch.exp(-(at**2) / (2 * 1.5**2))
    kernel = ((g / g.sum())[:, None] * (g / g.sum())[None]).expand(3, 1, 11, 11)
    a, b = (each.permute(0, 3, 1, 2).double() / 255 for each in (made_BHWC, image_BHWC))

    def blur(x):
        return nn.functional.conv2d(nn.functional.pad(x, (5, 5, 5, 5), "reflect"), kernel.double(), groups=3)

    ma, mb = blur(a), blur(b)
    va, vb, cov = blur(a * a) - ma**2, blur(b * b) - mb**2, blur(a * b) - ma * mb
    c1, c2 = 0.01**2, 0.03**2
    return (((2 * ma * mb + c1) * (2 * cov + c2)) / ((ma**2 + mb**2 + c1) * (va + vb + c2))).mean().item()


def frechet(x, y) -> float:
    x, y = x.double(), y.double()
    cx, cy = torch.cov(x.T), torch.cov(y.T)
    roots = torch.linalg.eigvals(cx @ cy).real.clamp(min=0).sqrt().sum()
    return float((x.mean(0) - y.mean(0)).square().sum() + cx.trace() + cy.trace() - 2 * roots)


def test_perturbed_tokens_cost_something_and_the_same_each_time():
    vqgan = tokenizer()
    once, again = (measure(vqgan, batches(images(6)), Perturbation(1.0, 0.5, 31)) for _ in range(2))
    name = "psnr_perturbed_p0.5_k31"
    assert once.figures[name] == again.figures[name]
    assert "probability 0.5" in once.figures[name].how and "31 codes" in once.figures[name].how
    assert once.figures[name].value != once.figures["psnr"].value


def test_what_cannot_be_measured_is_left_out_by_name():
    small = measure(tokenizer(8), batches(images(3, 8)), NONE)
    assert "window" in small.left_out["ssim"] and "ssim" not in small.figures
    levels = measure(tokenizer(quantizer="fsq", levels=[4, 4, 3]), batches(images(3)), NONE)
    assert set(levels.left_out) == {"psnr_perturbed_p0_k4"}
    alone = measure(tokenizer(), batches(images(1)), NONE, features={"fd": Extractor("means", "", 4, "", "", Means())})
    assert set(alone.left_out) == {"fd"}


def test_the_pictures_are_images_reconstructions_and_differences():
    vqgan, image_BHWC = tokenizer(), images(2)
    sheet = triplets(vqgan, image_BHWC)
    assert sheet.width > 2 * 96 and sheet.height > 3 * 96
    made_BHWC = to_uint8(vqgan(to_model_range(image_BHWC)).image_BCHW)
    corner = tuple(image_BHWC[0, 0, 0].tolist()), tuple(made_BHWC[0, 0, 0].tolist())
    step = 96 + 4 + 18
    found = [sheet.getpixel((6, 4 + 18 + 2 + row * step)) for row in range(3)]
    assert found[0] == corner[0]
    assert all(abs(a - b) <= 1 for a, b in zip(found[1], corner[1], strict=True))
    wanted = [min(255, 4 * abs(a - b)) for a, b in zip(found[0], found[1], strict=True)]
    assert list(found[2]) == wanted


def test_the_chart_of_codes_falls_from_the_most_frequent_to_those_never_used():
    chart = usage_chart(torch.tensor([0.0, 5.0, 100.0, 0.0]), 4, 10)
    dark = [sum(chart.getpixel((x, y)) == 64 for y in range(10)) for x in range(4)]
    assert dark[0] == 10 and 0 < dark[1] < 10 and dark[2:] == [0, 0]
