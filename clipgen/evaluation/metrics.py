"""What samples of a generator are worth against a reference set: figures that say how they were measured.

M samples (n of each of P prompts, in order), N pictures of the reference, H W pixels, F features
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torchmetrics
from PIL import Image, ImageFilter
from torch import Tensor
from tqdm import tqdm

from clipgen.clip.frozen import FrozenClip
from clipgen.data.transforms import center_crop_resize
from clipgen.evaluation import features
from clipgen.evaluation.extractors import BATCH, Extractor, of_clip
from clipgen.evaluation.nearest import nearest

BLURS = (0, 1, 2, 4, 8)  # of FID-k, as in CLIP-GEN's and CogView's tables
SIDE = 256  # pixels at which they blur
FEW = 1000  # pictures: below, nearest neighbours say more about N than about the pictures
SHARE = 0.1  # of a figure, from which on its bias is said


class Figure(NamedTuple):
    value: float
    implementation: str
    n: int
    resize: str
    reference: str  # empty where there is none
    warning: str = ""
    circular: bool = False  # what scored had trained, conditioned or selected

    @property
    def how(self) -> str:
        """All but the value, in one line; what to beware of comes first."""
        marks = ["CIRCULAR"] * self.circular + [f"WARNING {self.warning}"] * bool(self.warning)
        against = [f"against {self.reference}"] * bool(self.reference)
        return "; ".join([*marks, self.implementation, f"N={self.n:,}", f"pictures {self.resize}", *against])


@dataclass(frozen=True)
class Captioner:
    """`loss`: uint8 (B, H, W, 3) and B captions → (B,) mean cross-entropy of a caption's tokens, in nats."""

    name: str
    fingerprint: str
    loss: Callable[[Tensor, Sequence[str]], Tensor]


class Pictures:
    """A set of pictures uint8 (N, H, W, 3), whose features are taken once for each extractor and blur.

    `made_with` are the fingerprints of the CLIPs and captioners that trained, conditioned or selected.
    """

    def __init__(self, pixels_NHWC: Tensor, name: str, made_with: Collection[str] = ()):
        self.pixels_NHWC, self.name, self.made_with = pixels_NHWC, name, frozenset(made_with)
        self._features: dict[tuple[str, int | None], Tensor] = {}

    @classmethod
    def of(cls, images: Iterable[Image.Image], name: str, made_with: Collection[str] = ()) -> "Pictures":
        return cls(torch.from_numpy(np.stack([np.asarray(image) for image in images])), name, made_with)

    def __len__(self) -> int:
        return len(self.pixels_NHWC)

    def features_NF(self, extractor: Extractor, k: int | None = None) -> Tensor:
        """Of the pictures as they are, or brought to 256 pixels and blurred by k."""
        key = extractor.fingerprint, k
        if key not in self._features:
            parts = self.pixels_NHWC.split(BATCH)
            parts = tqdm(parts, f"{extractor.name}: {self.name}", unit="batch", leave=False, disable=len(self) < FEW)
            blurs = parts if k is None else (torch.stack([blurred(each, k) for each in part]) for part in parts)
            self._features[key] = torch.cat([extractor.embed(part) for part in blurs])
        return self._features[key]


def blurred(image_HWC: Tensor, k: int) -> Tensor:
    """The centre square at 256 × 256 (bicubic, antialiased), then Pillow's GaussianBlur(k).

    Pillow's radius is the Gaussian's sigma (three box filters: 0.99 k measured). What the papers' "radius" was is not
    known: none of the repositories of DALL-E, CogView, DF-GAN, LAFITE and HFAiLab's CLIP-GEN has a blur. LAFITE's
    author names torchvision's kernel of 2 k + 1 pixels (its issue 27), of about half the sigma: 0.7, 1.2, 2.1, 4.0.
    """
    image = center_crop_resize(Image.fromarray(image_HWC.numpy()), SIDE, Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image.filter(ImageFilter.GaussianBlur(k)) if k else image))


def fid_k(samples: Pictures, reference: Pictures, extractor: Extractor, k: int) -> Figure:
    """Fréchet distance of both sets at 256 pixels under the same blur. An FID only where the extractor is Inception."""
    if min(len(samples), len(reference)) < 2:
        raise ValueError("a Fréchet distance takes two pictures or more on each side")
    value = features.frechet(samples.features_NF(extractor, k), reference.features_NF(extractor, k))
    blur = f", then Pillow's GaussianBlur({k}), sigma {k}" if k else ""
    resize = f"centre square to {SIDE} bicubic{blur}; {extractor.resize}"
    few = [f"{each.name} are {len(each):,}" for each in (samples, reference) if len(each) <= extractor.size]
    warning = (
        f"biased upwards: {' and '.join(few)}, and it takes more than the {extractor.size} features" if few else ""
    )
    by = f"torchmetrics {torchmetrics.__version__}'s FID in float64 on {extractor.implementation}"
    return _figure(value, by, samples, resize, reference, warning, extractor)


def cmmd(samples: Pictures, reference: Pictures, extractor: Extractor) -> Figure:
    """CMMD (arXiv 2401.09603): a CLIP's, of sigma 10 and times 1000. Two pictures or more on each side."""
    value, bias = features.cmmd(samples.features_NF(extractor), reference.features_NF(extractor))
    biased = bias > SHARE * abs(value)
    warning = f"{bias:.3f} of it is the bias of few pictures ({_sizes(samples, reference)})" if biased else ""
    by = f"MMD² as its authors' (Gaussian, sigma 10, × 1000, biased estimate) on {extractor.implementation}"
    return _figure(value, by, samples, extractor.resize, reference, warning, extractor)


def manifold(samples: Pictures, reference: Pictures, extractor: Extractor) -> dict[str, Figure]:
    """Precision, recall, density and coverage; six pictures or more on each side."""
    warning = ""
    if min(len(samples), len(reference)) < FEW:
        warning = f"few for nearest neighbours: {_sizes(samples, reference)}; compare at equal numbers only"
    precision, density = (features.PR_NEIGHBOURS, "arXiv 1904.06991"), (features.DC_NEIGHBOURS, "arXiv 2002.09797")
    kinds = {"precision": precision, "recall": precision, "density": density, "coverage": density}
    values = features.manifold(samples.features_NF(extractor), reference.features_NF(extractor))
    return {
        name: _figure(
            values[name], f"k = {k} nearest neighbours ({paper}) on {extractor.implementation}", samples,
            extractor.resize, reference, warning, extractor,
        )
        for name, (k, paper) in kinds.items()
    }  # fmt: skip


def inception_score(samples: Pictures, extractor: Extractor) -> Figure:
    """IS, for an extractor with classes; it knows no reference and no prompt."""
    logits_MC = samples.features_NF(extractor) @ extractor.class_weights_CF.cpu().T
    few = len(samples) < features.SPLITS * logits_MC.shape[1]
    warning = f"{len(samples):,} samples in {features.SPLITS} parts for {logits_MC.shape[1]} classes" if few else ""
    by = f"mean of {features.SPLITS} parts, logits without bias, {extractor.implementation}"
    return _figure(features.inception_score(logits_MC), by, samples, extractor.resize, None, warning, extractor)


def diversity(samples: Pictures, prompts: int, extractor: Extractor) -> tuple[Figure, np.ndarray]:
    """Mean distance of the features of two samples of one prompt, and that of each prompt (P,); n of 2 or more."""
    values_P = features.spread(samples.features_NF(extractor).unflatten(0, (prompts, -1))).numpy()
    n = len(samples) // prompts
    by = f"mean Euclidean distance of two of the {n} samples of a prompt, {extractor.implementation}"
    return _figure(values_P.mean(), by, samples, extractor.resize, None, "", extractor), values_P


def clip_score(samples: Pictures, prompts: Sequence[str], clip: FrozenClip) -> tuple[Figure, np.ndarray]:
    """Mean cosine of a sample and its prompt, and that of each (P, n)."""
    extractor = of_clip(clip)
    text_P1E = clip.encode_text(prompts)[:, None].cpu()
    values_Pn = (samples.features_NF(extractor).unflatten(0, (len(prompts), -1)) * text_P1E).sum(-1).numpy()
    by = f"cosine of {extractor.implementation}, neither scaled nor cut at 0"
    return _figure(values_Pn.mean(), by, samples, extractor.resize, None, "", extractor), values_Pn


def caption_loss(samples: Pictures, prompts: Sequence[str], captioner: Captioner) -> tuple[Figure, np.ndarray]:
    """CapLoss (CogView, arXiv 2105.13290): mean cross-entropy of a prompt given its sample, and that of each (P, n)."""
    texts = [prompt for prompt in prompts for _ in range(len(samples) // len(prompts))]
    parts = samples.pixels_NHWC.split(BATCH)
    losses = [captioner.loss(part, texts[i * BATCH : (i + 1) * BATCH]).float().cpu() for i, part in enumerate(parts)]
    values_Pn = torch.cat(losses).view(len(prompts), -1).numpy()
    by = f"nats a token by the captioner {captioner.name}"
    return _figure(values_Pn.mean(), by, samples, "to its size (centre, Lanczos)", None, "", captioner), values_Pn


def copies(sets: Mapping[str, Tensor], training: Iterable[Mapping[str, Tensor]], name: str) -> dict[str, Figure]:
    """How far the nearest training picture is, by pixels: of each set uint8 (M, H, W, 3) the mean and the least."""
    levels = nearest(torch.cat(list(sets.values())).numpy(), training)[1]
    by, figures = "root mean square difference of pixels, in levels of 255", {}
    for key, pixels_MHWC in sets.items():
        own, levels = levels[: len(pixels_MHWC)], levels[len(pixels_MHWC) :]
        for kind, value in (("mean", own.mean()), ("least", own.min())):
            figures[f"{key}.{kind}"] = Figure(float(value), by, len(own), "as they are", name)
    return figures


def against(
    samples: Pictures, reference: Pictures, extractor: Extractor, prompts: int
) -> tuple[dict[str, Figure], dict[str, str]]:
    """Every figure of the pictures alone that this extractor allows, and why others are left out."""
    figures, left_out = {}, {}
    fewest = min(len(samples), len(reference))
    if fewest >= 2:
        figures |= {f"fid_k.{k}": fid_k(samples, reference, extractor, k) for k in BLURS}
    else:
        left_out["fid_k"] = f"it takes two pictures on each side, and there are {_sizes(samples, reference)}"
    if extractor.name != "clip":
        left_out["cmmd"] = "it is measured by a CLIP"
    elif fewest >= 2:
        figures["cmmd"] = cmmd(samples, reference, extractor)
    else:
        left_out["cmmd"] = left_out["fid_k"]
    if fewest > features.DC_NEIGHBOURS:
        figures |= manifold(samples, reference, extractor)
    else:
        why = f"more than {features.DC_NEIGHBOURS} pictures on each side are needed, not {_sizes(samples, reference)}"
        left_out |= dict.fromkeys(("precision", "recall", "density", "coverage"), why)
    if extractor.class_weights_CF is None:
        left_out["is"] = "it is measured by Inception"
    elif len(samples) < features.SPLITS:
        left_out["is"] = f"it takes {features.SPLITS} samples, and there are {len(samples)}"
    else:
        figures["is"] = inception_score(samples, extractor)
    if len(samples) > prompts:
        figures["diversity"] = diversity(samples, prompts, extractor)[0]
    else:
        left_out["diversity"] = "it takes two samples of a prompt"
    return figures, left_out


def _figure(
    value: float, implementation: str, samples: Pictures, resize: str, reference: Pictures | None, warning: str,
    judge: Extractor | Captioner,
) -> Figure:  # fmt: skip
    name = "" if reference is None else f"{len(reference):,} {reference.name}"
    circular = judge.fingerprint in samples.made_with
    return Figure(float(value), implementation, len(samples), resize, name, warning, circular)


def _sizes(samples: Pictures, reference: Pictures) -> str:
    return f"{len(samples):,} {samples.name}, {len(reference):,} {reference.name}"
