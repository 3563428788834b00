"""Bridges: from a text embedding to where the image embeddings lie that a model was trained on.

Text and image embeddings of one CLIP lie apart (the modality gap, arXiv 2203.02053), and stage 2 sees images only.
A bridge is a map chosen at sampling time; what it knows of either side needs no pairs: the mean and the covariance of
each, and for `knn` a bank of training images' embeddings.

B texts, N images of the bank, E embedding size, K neighbours
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from clipgen.errors import UserError
from clipgen.transformer.condition import centre

Statistics = Mapping[str, Tensor]  # image_mean, text_mean (E,); image_covariance, text_covariance (E, E)
DEFAULT = "mean"
SHRINKAGE = 0.1  # of a covariance towards the sphere of the same trace, in `whiten`
NEIGHBOURS, TEMPERATURE = 16, 0.05


def none(text_BE: Tensor, statistics: Statistics) -> Tensor:
    """The paper's swap: a text embedding is treated as if it were an image embedding."""
    return text_BE.float()


def mean(text_BE: Tensor, statistics: Statistics) -> Tensor:
    """The mean of texts becomes that of images (C3, arXiv 2401.08567)."""
    return text_BE.float() - statistics["text_mean"] + statistics["image_mean"]


def mean_scale(text_BE: Tensor, statistics: Statistics) -> Tensor:
    """Mean, and standard deviation of every coordinate, become those of images."""
    image_E, text_E = (statistics[f"{side}_covariance"].diagonal().clamp(min=1e-12) for side in ("image", "text"))
    return (text_BE.float() - statistics["text_mean"]) * (image_E / text_E).sqrt() + statistics["image_mean"]


def whiten(text_BE: Tensor, statistics: Statistics, shrinkage: float = SHRINKAGE) -> Tensor:
    """Mean and covariance become those of images, both regularised, by the map that moves Gaussians least."""
    image_EE, text_EE = (_shrunk(statistics[f"{side}_covariance"], shrinkage) for side in ("image", "text"))
    root_EE, inverse_EE = power(text_EE, 0.5), power(text_EE, -0.5)
    transport_EE = inverse_EE @ power(root_EE @ image_EE @ root_EE, 0.5) @ inverse_EE  # arXiv 1803.00567, eq. 2.40
    moved_BE = (text_BE.float() - statistics["text_mean"]) @ transport_EE.to(text_BE.device).float()
    return moved_BE + statistics["image_mean"]


def knn(condition_BE: Tensor, bank_NE: Tensor, k: int = NEIGHBOURS, temperature: float = TEMPERATURE) -> Tensor:
    """The mean of the `k` nearest of the bank (conditions too), weighted by the softmax of their cosines."""
    cosine_BK, nearest_BK = (condition_BE @ bank_NE.T).topk(min(k, len(bank_NE)), -1)
    weight_BK = (cosine_BK / temperature).softmax(-1)
    return F.normalize((weight_BK[..., None] * bank_NE[nearest_BK]).sum(1), dim=-1)


MOMENTS = ("image_mean", "text_mean", "image_covariance", "text_covariance")
MAPS: dict[str, tuple[Callable[[Tensor, Statistics], Tensor], tuple[str, ...]]] = {  # and the statistics each needs
    "none": (none, ()),
    "mean": (mean, ("image_mean", "text_mean")),
    "mean_scale": (mean_scale, MOMENTS),
    "whiten": (whiten, MOMENTS),
}


def parse(name: str) -> tuple[str, bool]:
    """(one of MAPS, whether knn follows) of such as `whiten`, `knn` (after mean) or `whiten+knn`."""
    first, _, rest = name.partition("+")
    if name == "knn":
        return "mean", True
    if first not in MAPS or rest not in ("", "knn") or name.endswith("+"):
        raise UserError(f"bridge={name} is unknown; take {', '.join(MAPS)}, knn, or one of them and knn as whiten+knn")
    return first, rest == "knn"


def bridge(
    name: str,
    text_BE: Tensor,
    statistics: Statistics,
    bank_NE: Tensor | None = None,
    centred: bool = True,
) -> Tensor:
    """Unit conditions (B, E) for text embeddings of unit length.

    `centred` says whether the model was trained on embeddings without their mean. `bank_NE` are raw embeddings of
    images. UserError for an unknown bridge, or one whose statistics or bank is missing.
    """
    first, nearest = parse(name)
    move, needs = MAPS[first]
    instead = DEFAULT if centred else "none"
    for key in (*needs, *(["image_mean"] if centred else [])):
        if key not in statistics:
            raise UserError(f"bridge={name} needs {key}, which this model was stored without; take bridge={instead}")
    if nearest and bank_NE is None:
        raise UserError(
            f"bridge={name} needs a bank of image embeddings, which this model was stored without; export it with "
            f"bank=10000, or take bridge={first}"
        )
    moved_BE = move(text_BE, statistics)
    condition_BE = place(moved_BE, statistics, centred)
    return knn(condition_BE, place(bank_NE, statistics, centred)) if nearest else condition_BE


def of_texts(text_BE: Tensor, statistics: Statistics, centred: bool = True) -> Tensor:
    """The unit conditions that text embeddings are to a model trained on texts: no gap lies between."""
    return centre(text_BE, statistics["text_mean"]) if centred else F.normalize(text_BE.float(), dim=-1)


def place(image_BE: Tensor, statistics: Statistics, centred: bool = True) -> Tensor:
    """The unit conditions that image embeddings are in training."""
    return centre(image_BE, statistics["image_mean"]) if centred else F.normalize(image_BE.float(), dim=-1)


def power(symmetric_EE: Tensor, exponent: float) -> Tensor:
    """A power of a positive matrix, in float64."""
    value_E, vector_EE = torch.linalg.eigh(symmetric_EE.double().cpu())
    return (vector_EE * value_E.clamp(min=1e-12) ** exponent) @ vector_EE.T


def _shrunk(covariance_EE: Tensor, shrinkage: float) -> Tensor:
    covariance_EE = covariance_EE.double().cpu()
    sphere_EE = torch.eye(len(covariance_EE), dtype=torch.float64) * covariance_EE.diagonal().mean()
    return (1 - shrinkage) * covariance_EE + shrinkage * sphere_EE
