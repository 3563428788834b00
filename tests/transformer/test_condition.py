"""The condition: centring, noise at an exact cosine, and dropout to the null."""

import pytest
import torch
import torch.nn.functional as F

from clipgen.transformer.condition import Conditioner, centre, level_features, noise_to_cosine


def unit(n: int, size: int) -> torch.Tensor:
    return F.normalize(torch.randn(n, size, generator=torch.Generator().manual_seed(0)), dim=-1)


@pytest.mark.parametrize("size", [16, 512, 1024])
def test_noise_gives_exactly_the_cosine_asked_for(size):
    clean_BE, cosine_B = unit(101, size), torch.linspace(0, 1, 101)
    noisy_BE = noise_to_cosine(clean_BE, cosine_B, torch.randn(101, size))
    torch.testing.assert_close((noisy_BE * clean_BE).sum(-1), cosine_B, atol=2e-6, rtol=0)
    torch.testing.assert_close(noisy_BE.norm(dim=-1), torch.ones(101))


def test_cosine_one_changes_nothing_and_every_row_has_its_own_noise():
    clean_BE = unit(1, 64).expand(200, -1)
    torch.testing.assert_close(noise_to_cosine(clean_BE, torch.ones(200), torch.randn(200, 64)), clean_BE)
    noisy_BE = noise_to_cosine(clean_BE, torch.full((200,), 0.6), torch.randn(200, 64))
    apart = noisy_BE - 0.6 * clean_BE
    assert (F.normalize(apart.mean(0), dim=0) @ clean_BE[0]).abs() < 1e-3
    assert apart.mean(0).norm() < 0.1  # of 0.8 each: the directions are random


def test_centring_takes_the_mean_away_and_gives_unit_length():
    embeddings_BE, mean_E = unit(50, 8).half(), torch.full((8,), 0.3).half()
    centred_BE = centre(embeddings_BE, mean_E)
    assert centred_BE.dtype == torch.float32
    torch.testing.assert_close(centred_BE.norm(dim=-1), torch.ones(50))
    torch.testing.assert_close(centred_BE, F.normalize(embeddings_BE.float() - mean_E.float(), dim=-1))


def test_centring_brings_two_modalities_together():
    content_BE = unit(100, 16)
    gap_E = torch.zeros(16).index_fill(0, torch.tensor([3]), 2.0)
    image_BE, text_BE = F.normalize(content_BE + gap_E, dim=-1), F.normalize(content_BE - gap_E, dim=-1)
    before = (image_BE * text_BE).sum(-1).mean()
    after = (centre(image_BE, image_BE.mean(0)) * centre(text_BE, text_BE.mean(0))).sum(-1).mean()
    assert before < 0
    assert after > 0.9


def conditioner(drop_prob: float) -> Conditioner:
    torch.manual_seed(0)
    return Conditioner(embed_dim=8, width=6, n_prefix=3, drop_prob=drop_prob)


def dropped(prefix_BPD: torch.Tensor, module: Conditioner) -> torch.Tensor:
    return (prefix_BPD == module.null(len(prefix_BPD))).all(-1).all(-1)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_conditions_are_dropped_at_the_stated_rate_in_training_only(rate):
    module = conditioner(rate)
    arguments = unit(10_000, 8), torch.rand(10_000)
    share = dropped(module.train()(*arguments), module).float().mean().item()
    assert share == pytest.approx(rate, abs=4 * (rate * (1 - rate) / 10_000) ** 0.5)
    assert not dropped(module.eval()(*arguments), module).any()


def test_a_row_is_dropped_whole_or_not_at_all():
    module, arguments = conditioner(0.5), (unit(500, 8), torch.rand(500))
    kept = module.eval()(*arguments)
    trained = module.train()(*arguments)
    gone = dropped(trained, module)
    assert 0 < gone.sum() < 500
    torch.testing.assert_close(trained[~gone], kept[~gone])


def test_rates_of_none_and_all():
    arguments = unit(200, 8), torch.rand(200)
    none, everything = conditioner(0.0).train(), conditioner(1.0).train()
    assert not dropped(none(*arguments), none).any()
    assert dropped(everything(*arguments), everything).all()


def test_the_null_learns_from_dropped_rows():
    module = conditioner(1.0).train()
    module(unit(4, 8), torch.rand(4)).sum().backward()
    assert torch.equal(module.null_PD.grad, torch.full((4, 6), 4.0))
    assert not module.project.weight.grad.any()


def test_the_level_has_the_last_token_for_itself():
    module = conditioner(0.0)
    unit_BE = unit(2, 8)
    low, high = module(unit_BE, torch.full((2,), 0.5)), module(unit_BE, torch.full((2,), 0.9))
    assert low.shape == (2, 4, 6)
    assert torch.equal(low[:, :3], high[:, :3])
    assert (low[:, 3] - high[:, 3]).abs().max() > 1e-2


def test_levels_are_told_apart():
    features_BF = level_features(torch.linspace(0, 1, 101))
    assert features_BF.shape == (101, 16)
    assert torch.cdist(features_BF, features_BF).fill_diagonal_(1).min() > 0.01


def test_without_its_token_the_level_makes_no_difference():
    told, untold = (Conditioner(8, 16, 2, 0.1, level_token=each).eval() for each in (True, False))
    condition_BE = torch.nn.functional.normalize(torch.randn(3, 8), dim=-1)
    low_B, high_B = torch.full((3,), 0.5), torch.full((3,), 1.0)
    assert told.n_tokens == 3 and untold.n_tokens == 2
    assert not torch.equal(told(condition_BE, low_B), told(condition_BE, high_B))
    assert torch.equal(untold(condition_BE, low_B), untold(condition_BE, high_B))
