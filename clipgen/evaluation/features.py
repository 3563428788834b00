"""Distances between two sets of features, by their formulas.

M features of samples, N of the reference, F their size, C classes
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

ROWS = 1000  # of a matrix of distances at a time
TIE = 1e-9  # of a squared distance, what rounding may add or take
BANDWIDTH, SCALE = 10.0, 1000.0  # CMMD's, arXiv 2401.09603 section 5
PR_NEIGHBOURS, DC_NEIGHBOURS = 3, 5  # arXiv 1904.06991 and 2002.09797
SPLITS = 10  # of IS


def frechet(made_MF: Tensor, real_NF: Tensor) -> float:
    """|difference of the means|² + tr(S + R - 2 (S R)^½), by torchmetrics' FID in float64."""
    identity = nn.Identity()
    identity.num_features = made_MF.shape[1]
    metric = FrechetInceptionDistance(identity)
    metric.update(real_NF.double(), real=True)
    metric.update(made_MF.double(), real=False)
    return float(metric.compute())


class Discrepancy(NamedTuple):
    value: float
    bias: float  # of `value`, what would vanish with more pictures


def cmmd(made_MF: Tensor, real_NF: Tensor) -> Discrepancy:
    """1000 · MMD² of unit embeddings under exp(-|x - y|² / (2 · 10²)), biased as its authors do it (2401.09603)."""
    m, n = len(made_MF), len(real_NF)
    within_made, within_real, between = (
        sum(float(torch.exp(-part / (2 * BANDWIDTH**2)).sum()) for part in _squares(one, other))
        for one, other in ((made_MF, made_MF), (real_NF, real_NF), (made_MF, real_NF))
    )
    value = within_made / m**2 + within_real / n**2 - 2 * between / (m * n)
    unbiased = (within_made - m) / (m * (m - 1)) + (within_real - n) / (n * (n - 1)) - 2 * between / (m * n)
    return Discrepancy(SCALE * value, SCALE * (value - unbiased))


def manifold(made_MF: Tensor, real_NF: Tensor) -> dict[str, float]:
    """Precision and recall (arXiv 1904.06991, 3 nearest neighbours), density and coverage (2002.09797, 5).

    A picture's ball reaches to its k-th nearest neighbour in its own set, which must hold more than k others. As
    published, what lies on its surface is inside for precision and recall, and outside for density and coverage.
    """
    ball_M, _ = _radii(made_MF)
    ball_N, wide_N = _radii(real_NF)
    inside, density, start = 0, 0, 0
    reached_N, covered_N = (torch.zeros(len(real_NF), dtype=torch.bool) for _ in range(2))
    for squares_PN in _squares(made_MF, real_NF):
        ball_P = ball_M[start : (start := start + len(squares_PN))]
        inside += int((squares_PN <= ball_N * (1 + TIE)).any(1).sum())
        reached_N |= (squares_PN <= ball_P[:, None] * (1 + TIE)).any(0)
        within_PN = squares_PN < wide_N * (1 - TIE)
        density += int(within_PN.sum())
        covered_N |= within_PN.any(0)
    return {
        "precision": inside / len(made_MF),
        "recall": float(reached_N.float().mean()),
        "density": density / (DC_NEIGHBOURS * len(made_MF)),
        "coverage": float(covered_N.float().mean()),
    }


def inception_score(logits_MC: Tensor, seed: int = 2020) -> float:
    """exp E KL(p(y|x) ‖ p(y)), the mean over 10 parts of the shuffled samples (arXiv 1606.03498)."""
    order_M = torch.randperm(len(logits_MC), generator=torch.Generator().manual_seed(seed))
    scores = []
    for part_PC in logits_MC[order_M].double().tensor_split(SPLITS):
        log_PC = part_PC.log_softmax(1)
        log_C = log_PC.exp().mean(0).log()
        scores.append((log_PC.exp() * (log_PC - log_C)).sum(1).mean().exp())
    return float(torch.stack(scores).mean())


def spread(feature_PnF: Tensor) -> Tensor:
    """(P,) mean distance between the features of two of the n ≥ 2 pictures of a prompt."""
    n = feature_PnF.shape[1]
    return torch.cdist(feature_PnF, feature_PnF).sum((1, 2)) / (n * (n - 1))


def _radii(feature_NF: Tensor) -> tuple[Tensor, Tensor]:
    """Of each its squared distances to the 3rd and to the 5th nearest other one."""
    nearest_NK = torch.cat(
        [part.topk(DC_NEIGHBOURS + 1, largest=False).values for part in _squares(feature_NF, feature_NF)]
    )
    return nearest_NK[:, PR_NEIGHBOURS], nearest_NK[:, DC_NEIGHBOURS]


def _squares(x_MF: Tensor, y_NF: Tensor) -> Iterator[Tensor]:
    """Squared distances in float64, some rows at a time; copies are at exactly 0."""
    y_NF = y_NF.double()
    for x_PF in x_MF.double().split(ROWS):
        norm_PN = x_PF.square().sum(1)[:, None] + y_NF.square().sum(1)
        square_PN = norm_PN - 2 * x_PF @ y_NF.T
        yield square_PN.where(square_PN > 1e-12 * norm_PN, 0.0)
