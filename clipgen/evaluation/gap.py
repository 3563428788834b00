"""The modality gap in numbers: where image and text embeddings lie, and where each bridge brings the texts.

N images, K of them with a text of their own, M texts, E embedding size; embeddings are of unit length
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from clipgen.transformer.bridges import MAPS, bridge
from clipgen.transformer.condition import centre

BRIDGES = (*MAPS, "knn", "whiten+knn")
SPECTRUM = 16  # eigenvalues that are told


def moments(image_NE: Tensor, text_ME: Tensor) -> dict[str, Tensor]:
    """The statistics that the bridges take, as `clipgen encode` stores them."""
    return {
        f"{side}_{name}": value
        for side, rows in (("image", image_NE), ("text", text_ME))
        for name, value in (("mean", rows.mean(0)), ("covariance", rows.T.cov(correction=0)))
    }


def measure_gap(image_NE: Tensor, text_ME: Tensor, paired_NE: Tensor | None = None) -> dict[str, Any]:
    """The two clouds as they are; `paired_NE` are the images' own texts, row by row, NaN where an image has none."""
    facts: dict[str, Any] = {"images": len(image_NE), "texts": len(text_ME)}
    between_E = image_NE.mean(0) - text_ME.mean(0)
    squared = 2 - 2 * (image_NE.mean(0) @ text_ME.mean(0))  # mean squared distance of an image and a text
    facts["centroid_distance"] = float(between_E.norm())
    facts["gap_mean_share"] = float(between_E.square().sum() / squared)
    facts["cosine_image_text"] = float(image_NE.mean(0) @ text_ME.mean(0))
    for side, rows in (("image", image_NE), ("text", text_ME)):
        facts[side] = _cloud(rows)
    if paired_NE is not None:
        known_N = ~paired_NE.isnan().any(1)
        own_KE, own_text_KE = image_NE[known_N], paired_NE[known_N]
        centred_KE, texts_KE = centre(own_KE, image_NE.mean(0)), centre(own_text_KE, own_text_KE.mean(0))
        facts["pairs"] = {
            "images": len(own_KE),
            "cosine": float((own_KE * own_text_KE).sum(-1).mean()),
            "cosine_centred": float((centred_KE * texts_KE).sum(-1).mean()),
        }
    return facts


def measure_bridges(
    image_NE: Tensor,
    text_ME: Tensor,
    statistics: Mapping[str, Tensor],
    bank_NE: Tensor | None = None,
    paired_NE: Tensor | None = None,
    names: Sequence[str] = BRIDGES,
) -> dict[str, dict[str, float]]:
    """Where each bridge brings the texts among the conditions of the images.

    `centroid_distance`, `cosine_nearest` (of a text's condition and the nearest image's), `paired_cosine`, `recall@1`
    (of the images for their own texts, `paired_NE` as in `measure_gap`, among all N). `image` stands for a perfect
    bridge: the images' own conditions. Bridges with knn are left out without a bank, which should hold none of the
    images.
    """
    condition_NE = centre(image_NE, statistics["image_mean"])
    same_NN = condition_NE @ condition_NE.T
    found = {"image": {"centroid_distance": 0.0, "cosine_nearest": _nearest(same_NN.fill_diagonal_(-1.0))}}
    for name in names:
        if name.endswith("knn") and bank_NE is None:
            continue
        made_ME = bridge(name, text_ME, statistics, bank_NE)
        found[name] = {
            "centroid_distance": float((made_ME.mean(0) - condition_NE.mean(0)).norm()),
            "cosine_nearest": _nearest(made_ME @ condition_NE.T),
        }
        if paired_NE is not None:
            own_K = (~paired_NE.isnan().any(1)).nonzero().flatten()
            cosine_KN = bridge(name, paired_NE[own_K], statistics, bank_NE) @ condition_NE.T
            first_K = cosine_KN.argmax(1) == own_K
            cosine_K = cosine_KN.gather(1, own_K[:, None])
            found[name] |= {"paired_cosine": float(cosine_K.mean()), "recall@1": float(first_K.float().mean())}
    return found


def average_precision(score_N: Tensor, relevant_N: Tensor) -> float:
    """Mean precision at the rank of each relevant item."""
    hit_N = relevant_N[score_N.argsort(descending=True, stable=True)].double()
    precision_N = hit_N.cumsum(0) / torch.arange(1, len(hit_N) + 1)
    return float((precision_N * hit_N).sum() / hit_N.sum())


def _cloud(rows_NE: Tensor) -> dict[str, Any]:
    n, mean_E = len(rows_NE), rows_NE.mean(0)
    variance_E = torch.linalg.eigvalsh(rows_NE.double().T.cov(correction=0)).flip(0).clamp(min=0)
    total = float(variance_E.sum())
    return {
        "cosine_within": float((n * mean_E.square().sum() - 1) / max(n - 1, 1)),  # of two different ones
        "mean_share": float(mean_E.square().sum()),  # of the squared length, which a mean removes
        "effective_dimension": total**2 / max(float(variance_E.square().sum()), 1e-30),
        "spectrum": [round(float(value) / max(total, 1e-30), 5) for value in variance_E[:SPECTRUM]],
    }


def _nearest(cosine_MN: Tensor) -> float:
    return float(cosine_MN.max(1).values.mean())
