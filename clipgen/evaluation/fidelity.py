"""What a tokenizer's reconstructions are worth: figures that say how they were measured, and pictures.

B batch, H W pixels, K codebook size
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
import torchmetrics
from PIL import Image
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.image.fid import FrechetInceptionDistance

from clipgen.data.transforms import to_model_range, to_uint8
from clipgen.evaluation.extractors import Extractor
from clipgen.evaluation.tokenizer import reconstruct
from clipgen.picture import image_grid
from clipgen.tokenizer.codes import Perturbation, occurrences, perplexity, usage
from clipgen.tokenizer.loss import psnr
from clipgen.tokenizer.quantize import NearestCode
from clipgen.tokenizer.vqgan import VQGAN

WINDOW = 11  # pixels of SSIM's
MAGNIFIED = 4  # differences in a picture


class Figure(NamedTuple):
    value: float
    how: str


class Distance(NamedTuple):
    """(Made, wanted), images (B, 3, H, W) in [-1, 1] → their mean distance."""

    between: Callable[[Tensor, Tensor], Tensor]
    how: str


class Measured(NamedTuple):
    figures: dict[str, Figure]
    left_out: dict[str, str]  # figure → why
    counts_K: Tensor


@torch.no_grad()
def measure(
    vqgan: VQGAN,
    batches: Iterable[Mapping[str, Tensor]],
    perturbation: Perturbation | None = None,
    seed: int = 0,
    distances: Mapping[str, Distance] | None = None,
    features: Mapping[str, Extractor] | None = None,
) -> Measured:
    """Reconstructions of the batches, rounded to 8 bits as they would be saved, against the pictures; no resizing."""
    device = vqgan.last_layer.device
    frechet = {name: _frechet(each).to(device) for name, each in (features or {}).items()}
    nearest = perturbation is not None and isinstance(vqgan.quantizer, NearestCode)
    counts_K = torch.zeros(vqgan.quantizer.codebook_size, device=device)
    values: dict[str, list[Tensor]] = {"psnr": [], "psnr_perturbed": [], "ssim": []}
    values |= {name: [] for name in distances or {}}
    n, side = 0, 0
    for number, batch in enumerate(batches):
        image_BHWC = batch["image"]
        tokens_Bhw, made_BHWC = reconstruct(vqgan, image_BHWC)
        counts_K += occurrences(tokens_Bhw, len(counts_K))
        size, side = len(image_BHWC), min(image_BHWC.shape[1:3])
        n += size
        values["psnr"].append(psnr(made_BHWC, image_BHWC))
        image_BCHW = image_BHWC.permute(0, 3, 1, 2).to(device)
        made_BCHW = made_BHWC.permute(0, 3, 1, 2).to(device)
        if side >= WINDOW:
            pair = made_BCHW.float() / 255, image_BCHW.float() / 255
            values["ssim"].append(structural_similarity_index_measure(*pair, data_range=1.0, reduction="none"))
        if nearest:
            torch.manual_seed(seed + number)
            other_BCHW = vqgan(to_model_range(image_BHWC.to(device)), perturbation=perturbation).image_BCHW
            values["psnr_perturbed"].append(psnr(to_uint8(other_BCHW).cpu(), image_BHWC))
        for name, distance in (distances or {}).items():
            mean = distance.between(to_model_range(made_BHWC.to(device)), to_model_range(image_BHWC.to(device)))
            values[name].append(mean.float().cpu().expand(size))
        for each in frechet.values():
            each.update(image_BCHW, real=True)
            each.update(made_BCHW, real=False)

    over = f"mean over N={n:,} pictures as uint8, not resized"
    metrics = f"torchmetrics {torchmetrics.__version__}"
    tokens = f"over {int(counts_K.sum()):,} tokens of N={n:,} pictures"
    figures = {"psnr": Figure(_mean(values["psnr"]), f"dB, {over}")}
    left_out = {}
    if values["ssim"]:
        how = f"{metrics}, Gaussian window of {WINDOW}, borders mirrored, {over}"
        figures["ssim"] = Figure(_mean(values["ssim"]), how)
    else:
        left_out["ssim"] = f"pictures of {side} pixels are smaller than its window of {WINDOW}"
    if perturbation is not None:
        likely, near = perturbation.prob, perturbation.neighbours
        perturbed = f"psnr_perturbed_p{likely:g}_k{near}"
    if nearest:
        how = f"as psnr, where with probability {likely:g} a token is one of the {near} codes nearest to its vector"
        figures[perturbed] = Figure(_mean(values["psnr_perturbed"]), f"{how}; {over}")
    elif perturbation is not None:
        left_out[perturbed] = "the codes of this quantizer have no nearest ones"
    for name, distance in (distances or {}).items():
        figures[name] = Figure(_mean(values[name]), f"{distance.how}; {over}")
    figures["usage"] = Figure(usage(counts_K), f"share of K={len(counts_K):,} codes that occur, {tokens}")
    figures["perplexity"] = Figure(perplexity(counts_K), f"exp(entropy) of the codes, {tokens}")
    for name, each in frechet.items():
        if n > 1:
            how = f"{metrics}'s FID in float64; {features[name].how}; N={n:,} pictures against their reconstructions"
            figures[name] = Figure(float(each.compute()), how)
        else:
            left_out[name] = "it takes two pictures or more"
    return Measured(figures, left_out, counts_K.cpu())


def reconstruction(vqgan: VQGAN, batches: Iterable[Mapping[str, Tensor]]) -> dict[str, float]:
    """Those of the figures that a run ends with: vqgan.psnr, vqgan.ssim (from 11 pixels on), usage and perplexity."""
    return {f"vqgan.{name}": value for name, (value, _) in measure(vqgan, batches).figures.items()}


def _mean(values: list[Tensor]) -> float:
    return float(torch.cat([value.cpu() for value in values]).mean())


def _frechet(features: Extractor) -> FrechetInceptionDistance:
    features.network.num_features = features.size
    return FrechetInceptionDistance(features.network)


def triplets(vqgan: VQGAN, image_BHWC: Tensor) -> Image.Image:
    """Each picture over its reconstruction over their difference."""
    made_BHWC = reconstruct(vqgan, image_BHWC)[1]
    difference_BHWC = (MAGNIFIED * (image_BHWC.int() - made_BHWC.int()).abs()).clamp(max=255).to(torch.uint8)
    rows = [*image_BHWC.numpy(), *made_BHWC.numpy(), *difference_BHWC.numpy()]
    return image_grid(rows, len(image_BHWC), ["images", "reconstructions", f"difference, {MAGNIFIED} times"])


def usage_chart(counts_K: Tensor, width: int = 512, height: int = 128) -> Image.Image:
    """How often each code occurs, the most frequent first, on a logarithmic scale; codes never used are white."""
    heights_K = np.log1p(np.sort(counts_K.numpy())[::-1]) / max(math.log1p(float(counts_K.max())), 1e-9)
    columns_W = heights_K[np.arange(width) * len(heights_K) // width]
    filled_HW = np.arange(height, 0, -1)[:, None] <= columns_W * height
    return Image.fromarray(np.where(filled_HW, 64, 255).astype(np.uint8))
