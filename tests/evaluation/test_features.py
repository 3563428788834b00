"""Distances between sets of features: against analytic values, other implementations and the formulas, pair by pair."""

import math

import pytest
import torch

from clipgen.evaluation.features import cmmd, frechet, inception_score, manifold, spread


def blob(n: int, size: int, seed: int, mean: float = 0.0, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(n, size, generator=torch.Generator().manual_seed(seed)) * scale + mean


def unit(n: int, size: int, seed: int, mean: float = 0.0) -> torch.Tensor:
    return torch.nn.functional.normalize(blob(n, size, seed, mean), dim=1)


def test_the_frechet_distance_of_two_gaussians_is_the_analytic_one():
    made, real = blob(50_000, 6, 0, 0.5, 2.0), blob(50_000, 6, 1)
    wanted = 6 * (0.5**2 + (2 - 1) ** 2)
    assert frechet(made, real) == pytest.approx(wanted, rel=0.02)
    assert frechet(real, real) == pytest.approx(0, abs=1e-9)


def test_the_frechet_distance_is_torch_fidelitys_on_the_same_features():
    metric = pytest.importorskip("torch_fidelity.metric_fid")
    made, real = blob(300, 16, 0, 0.2), blob(400, 16, 1) @ blob(16, 16, 2)
    statistics = [metric.fid_features_to_statistics(each.double()) for each in (made, real)]
    wanted = metric.fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"]
    assert frechet(made, real) == pytest.approx(wanted, rel=1e-6)


def test_cmmd_is_its_definition_pair_by_pair_and_names_its_bias():
    made, real = unit(40, 8, 0, 0.5), unit(1200, 8, 1)  # more than one part of the matrix

    def kernel(x, y):
        return math.exp(-((x - y).double() ** 2).sum().item() / 200)

    real_few = real[:30]
    found = cmmd(made, real_few)
    terms = [
        sum(kernel(x, y) for x in one for y in other) / (len(one) * len(other))
        for one, other in ((made, made), (real_few, real_few), (made, real_few))
    ]
    assert found.value == pytest.approx(1000 * (terms[0] + terms[1] - 2 * terms[2]), rel=1e-6)
    # two halves of one distribution: all that is left is the bias
    same = [cmmd(unit(200, 8, seed), unit(200, 8, seed + 100)) for seed in range(2, 22)]
    assert sum(each.value - each.bias for each in same) / 20 == pytest.approx(0, abs=0.01)
    assert all(each.value > 0 and each.bias > 0.04 for each in same)
    parts = [cmmd(made, real[:600]), cmmd(made, real[600:]), cmmd(made, real)]
    assert parts[2].value == pytest.approx((parts[0].value + parts[1].value) / 2, abs=0.02)


def by_pairs(made: torch.Tensor, real: torch.Tensor) -> dict[str, float]:
    """Precision and recall (k = 3), density and coverage (k = 5), as prdc writes them down, without matrices."""

    def distance(x, y):
        return math.dist(x.tolist(), y.tolist())

    def radius(x, own, k):
        return sorted(distance(x, y) for y in own)[k]  # the nearest is x itself

    made_balls = [radius(x, made, 3) for x in made]
    real_balls, real_wide = ([radius(y, real, k) for y in real] for k in (3, 5))
    covered = [min(distance(x, y) for x in made) < wide for y, wide in zip(real, real_wide, strict=True)]
    pairs = list(zip(real, real_balls, real_wide, strict=True))
    within = [distance(x, y) < wide for x in made for y, _, wide in pairs]
    return {
        "precision": sum(any(distance(x, y) <= ball for y, ball, _ in pairs) for x in made) / len(made),
        "recall": sum(any(distance(x, y) <= b for x, b in zip(made, made_balls, strict=True)) for y in real)
        / len(real),
        "density": sum(within) / (5 * len(made)),
        "coverage": sum(covered) / len(real),
    }


@pytest.mark.parametrize("shift", [0.0, 0.7, 3.0])
def test_precision_recall_density_and_coverage_are_their_definitions(shift, monkeypatch):
    monkeypatch.setattr("clipgen.evaluation.features.ROWS", 16)
    made, real = blob(45, 3, 0, shift, 0.6), blob(60, 3, 1)
    assert manifold(made, real) == pytest.approx(by_pairs(made, real))


def test_precision_and_recall_are_torch_fidelitys():
    metric = pytest.importorskip("torch_fidelity.metric_prc")
    made, real = blob(200, 8, 0, 0.4, 0.8), blob(150, 8, 1)
    precision, recall = metric.calculate_precision_recall_full(made, real, 3)
    found = manifold(made, real)
    assert (found["precision"], found["recall"]) == pytest.approx((precision, recall))


def test_a_set_against_itself_and_copies_of_one_picture():
    real = blob(80, 40, 1) * 30  # as long as Inception's features, where a matrix product rounds
    assert manifold(real, real.clone()) == {"precision": 1, "recall": 1, "density": 1, "coverage": 1}
    copies = manifold(real[:1].repeat(80, 1), real)
    assert copies["precision"] == 1 and copies["recall"] == pytest.approx(1 / 80)
    assert copies["coverage"] < 0.3


def test_copies_are_at_distance_0_however_long_the_features_are():
    """A set of sixes of the same picture has balls of radius 0, which hold exactly that picture."""
    distinct = blob(40, 64, 1) * 30
    found = manifold(distinct, distinct.repeat(6, 1))
    assert found["precision"] == 1 and found["recall"] == 1 and found["density"] == found["coverage"] == 0
    assert manifold(distinct + 1e-3, distinct.repeat(6, 1))["precision"] == 0


def test_the_inception_score_of_sure_and_even_classes_and_of_unsure_ones():
    sure = torch.eye(7).repeat(1000, 1) * 50
    assert inception_score(sure) == pytest.approx(7, rel=0.01)
    assert inception_score(torch.zeros(100, 7)) == pytest.approx(1)
    metric = pytest.importorskip("torch_fidelity.metric_isc")
    logits = blob(4000, 12, 0, 0, 2.0)
    wanted = metric.isc_features_to_metric(logits)["inception_score_mean"]  # other parts: it shuffles by numpy
    assert inception_score(logits) == pytest.approx(wanted, rel=0.01)


def test_the_spread_within_a_prompt():
    feature = torch.tensor([[[0.0, 0], [3, 4], [0, 0]], [[1, 1], [1, 1], [1, 1]]])
    assert spread(feature).tolist() == pytest.approx([10 / 3, 0])
