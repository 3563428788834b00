"""Every bridge has the property it is named for."""

import pytest
import torch
import torch.nn.functional as F

from clipgen.errors import UserError
from clipgen.transformer import bridges
from clipgen.transformer.bridges import bridge, knn, mean_scale, none, parse, whiten
from clipgen.transformer.condition import centre

E = 6


def cloud(seed: int, n: int = 4000) -> torch.Tensor:
    """Unit vectors around a mean of their own, more spread in some directions than in others."""
    draw = torch.Generator().manual_seed(seed)
    mixing_EE = torch.randn(E, E, generator=draw) * 0.1
    return F.normalize(torch.randn(n, E, generator=draw) @ mixing_EE + torch.randn(E, generator=draw), dim=-1)


IMAGES, TEXTS = cloud(0), cloud(1)
STATISTICS = {
    f"{side}_{name}": value
    for side, rows in (("image", IMAGES), ("text", TEXTS))
    for name, value in (("mean", rows.mean(0)), ("covariance", rows.T.cov(correction=0)))
}
EVERY = ["none", "mean", "mean_scale", "whiten", "knn", "none+knn", "mean+knn", "mean_scale+knn", "whiten+knn"]


@pytest.mark.parametrize("name", EVERY)
def test_conditions_are_of_unit_length(name):
    condition_BE = bridge(name, TEXTS[:5], STATISTICS, IMAGES[:100].half())
    assert condition_BE.shape == (5, E) and condition_BE.dtype == torch.float32
    torch.testing.assert_close(condition_BE.norm(dim=-1), torch.ones(5))


def test_none_is_what_an_image_with_this_embedding_would_get():
    assert torch.equal(none(TEXTS, STATISTICS), centre(TEXTS, STATISTICS["image_mean"]))
    assert not torch.allclose(none(TEXTS, STATISTICS), bridge("mean", TEXTS, STATISTICS))


def test_mean_is_the_centring_of_training_with_the_texts_own_mean():
    assert torch.equal(bridge("mean", TEXTS, STATISTICS), centre(TEXTS, STATISTICS["text_mean"]))


def moments_before_unit_length(monkeypatch, apply) -> tuple[torch.Tensor, torch.Tensor]:
    monkeypatch.setattr(bridges.F, "normalize", lambda rows, dim: rows)
    moved_NE = apply()
    return moved_NE.mean(0), moved_NE.T.cov(correction=0)


def test_mean_scale_gives_every_coordinate_the_images_spread(monkeypatch):
    mean_E, covariance_EE = moments_before_unit_length(monkeypatch, lambda: mean_scale(TEXTS, STATISTICS))
    torch.testing.assert_close(mean_E, torch.zeros(E), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        covariance_EE.diagonal(), STATISTICS["image_covariance"].diagonal(), atol=1e-6, rtol=1e-3
    )
    assert not torch.allclose(covariance_EE, STATISTICS["image_covariance"], atol=1e-3)


def test_whiten_gives_the_images_covariance(monkeypatch):
    mean_E, covariance_EE = moments_before_unit_length(monkeypatch, lambda: whiten(TEXTS, STATISTICS, shrinkage=0))
    torch.testing.assert_close(mean_E, torch.zeros(E), atol=1e-5, rtol=0)
    torch.testing.assert_close(covariance_EE, STATISTICS["image_covariance"], atol=1e-5, rtol=1e-3)


def test_whiten_fully_shrunk_or_without_a_difference_is_mean():
    same = STATISTICS | {"image_covariance": STATISTICS["text_covariance"]}
    for statistics, shrinkage in ((STATISTICS, 1.0), (same, 0.1)):
        torch.testing.assert_close(whiten(TEXTS, statistics, shrinkage), bridge("mean", TEXTS, STATISTICS))


def test_whiten_stands_a_covariance_without_full_rank():
    few = STATISTICS | {"text_covariance": TEXTS[:3].T.cov(), "image_covariance": IMAGES[:3].T.cov()}
    assert whiten(TEXTS, few).isfinite().all()


def test_the_one_nearest_neighbour_is_itself():
    bank_NE = centre(IMAGES, STATISTICS["image_mean"])
    query_BE = bridge("mean", TEXTS[:20], STATISTICS)
    nearest_B = (query_BE @ bank_NE.T).argmax(1)
    torch.testing.assert_close(knn(query_BE, bank_NE, k=1), bank_NE[nearest_B])
    torch.testing.assert_close(knn(bank_NE[:5], bank_NE, k=1), bank_NE[:5])


def test_knn_is_a_convex_combination_of_the_k_nearest():
    bank_NE = torch.eye(E)
    query_BE = torch.tensor([[0.9, 0.8, 0.1, 0.0, -0.5, -0.6]])
    made_E = knn(query_BE, bank_NE, k=2, temperature=0.1)[0]
    assert (made_E[:2] > 0).all() and made_E[0] > made_E[1] and not made_E[2:].any()
    torch.testing.assert_close(made_E[0] / made_E[1], torch.tensor(1.0).exp(), atol=1e-4, rtol=1e-4)


def test_a_bank_smaller_than_k_is_used_whole():
    assert knn(TEXTS[:2], IMAGES[:3], k=100).shape == (2, E)


def test_knn_alone_comes_after_mean_and_a_composition_goes_from_left_to_right():
    texts_BE, bank_NE = TEXTS[:50], IMAGES[:200]
    centred_NE = centre(bank_NE, STATISTICS["image_mean"])
    for name, first in (("knn", "mean"), ("mean+knn", "mean"), ("whiten+knn", "whiten"), ("none+knn", "none")):
        expected_BE = knn(bridge(first, texts_BE, STATISTICS), centred_NE)
        torch.testing.assert_close(bridge(name, texts_BE, STATISTICS, bank_NE), expected_BE)
    assert not torch.allclose(
        bridge("knn", texts_BE, STATISTICS, bank_NE), bridge("whiten+knn", texts_BE, STATISTICS, bank_NE)
    )


@pytest.mark.parametrize("name", ["", "knm", "knn+mean", "mean+whiten", "whiten+knn+knn", "mean+", "+knn", "Mean"])
def test_an_unknown_bridge_or_order(name):
    with pytest.raises(UserError, match=r"bridge=.* is unknown; take none, mean, mean_scale, whiten, knn") as refused:
        parse(name)
    assert "\n" not in str(refused.value)


def test_what_a_model_was_stored_without():
    means = {name: value for name, value in STATISTICS.items() if name.endswith("mean")}
    assert bridge("mean", TEXTS[:1], means).shape == (1, E)
    with pytest.raises(UserError, match=r"bridge=whiten needs image_covariance, .*; take bridge=mean$"):
        bridge("whiten", TEXTS[:1], means)
    with pytest.raises(UserError, match=r"bridge=whiten\+knn needs a bank .* take bridge=whiten$"):
        bridge("whiten+knn", TEXTS[:1], STATISTICS)
